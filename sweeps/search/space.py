"""W&B's parameter forms: checking them, listing a grid's points, and drawing a point from an Optuna trial."""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist
from typing import Any

# distribution -> (keys it needs, keys it may have)
BOUNDS, QUANTUM, MOMENTS, SHAPE = {"min", "max"}, {"q"}, {"mu", "sigma"}, {"a", "b"}
DISTRIBUTIONS: dict[str, tuple[set[str], set[str]]] = {
    "constant": ({"value"}, set()),
    "categorical": ({"values"}, set()),
    "categorical_w_probabilities": ({"values", "probabilities"}, set()),
    "int_uniform": (BOUNDS, set()),
    "uniform": (BOUNDS, set()),
    "q_uniform": (BOUNDS, QUANTUM),
    "log_uniform": (BOUNDS, set()),
    "log_uniform_values": (BOUNDS, set()),
    "q_log_uniform": (BOUNDS, QUANTUM),
    "q_log_uniform_values": (BOUNDS, QUANTUM),
    "inv_log_uniform": (BOUNDS, set()),
    "inv_log_uniform_values": (BOUNDS, set()),
    "normal": (set(), MOMENTS),
    "q_normal": (set(), MOMENTS | QUANTUM),
    "log_normal": (set(), MOMENTS),
    "q_log_normal": (set(), MOMENTS | QUANTUM),
    "beta": (set(), SHAPE),
    "q_beta": (set(), SHAPE | QUANTUM),
}
COUNTABLE = ("constant", "categorical", "int_uniform", "q_uniform")
DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1}
EXPONENT_STRING = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def distribution_of(name: str, form: Mapping[str, Any]) -> str:
    """Return the distribution a parameter form names or, by W&B's rules, implies.

    Args:
        name: The parameter, for the error.
        form: Its form, such as `{min: 0.0, max: 1.0}`.

    Returns:
        A key of `DISTRIBUTIONS`.

    Raises:
        ValueError: If the distribution is unknown or cannot be told from the form.
    """
    kind = form.get("distribution")
    if kind is None and "value" in form:
        kind = "constant"
    elif kind is None and "values" in form:
        kind = "categorical"
    elif kind is None and form.keys() >= BOUNDS:
        types = {type(form["min"]), type(form["max"])}
        if types == {int, float}:
            raise ValueError(f"parameters.{name}: min and max must both be whole numbers, or both floats")
        kind = "int_uniform" if types == {int} else "uniform"
    if kind == "categorical" and "probabilities" in form:
        kind = "categorical_w_probabilities"
    if kind not in DISTRIBUTIONS:
        what = "needs value, values, or min and max" if kind is None else f"unknown distribution {kind!r}"
        raise ValueError(f"parameters.{name}: {what}; distributions: {', '.join(DISTRIBUTIONS)}")
    return kind


def leaves(parameters: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Yield (path, form) for every parameter, going into nested `parameters`."""
    for name, form in parameters.items():
        if isinstance(form, dict) and isinstance(form.get("parameters"), dict):
            yield from leaves(form["parameters"], (*path, name))
        else:
            yield (*path, name), form


def check_parameters(parameters: Any, grid: bool) -> None:
    """Check every parameter form.

    Args:
        parameters: The `parameters` of a sweep file.
        grid: Whether every parameter must have finitely many values.

    Raises:
        ValueError: Naming the first parameter that is wrong, and why.
    """
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError("parameters: a mapping from names to forms is needed")
    for path, form in leaves(parameters):
        name = ".".join(map(str, path))
        if not isinstance(form, dict):
            raise ValueError(f"parameters.{name}: a form such as `value: {form}` or `values: [{form}]` is needed")
        kind = distribution_of(name, form)
        _check_form(name, form, kind)
        if grid and kind not in COUNTABLE:
            what = "the continuous range of" if form.keys() >= BOUNDS else "the distribution"
            raise ValueError(
                f"parameters.{name}: a grid cannot run over {what} {kind}; list values, or use method random or bayes"
            )


def _check_form(name: str, form: Mapping[str, Any], kind: str) -> None:
    required, optional = DISTRIBUTIONS[kind]
    missing, unknown = required - form.keys(), form.keys() - required - optional - {"distribution"}
    if missing or unknown:
        what = f"needs {', '.join(sorted(missing))}" if missing else f"knows no {', '.join(sorted(unknown))}"
        raise ValueError(f"parameters.{name}: distribution {kind} {what}")
    for key in form.keys() & (BOUNDS | QUANTUM | MOMENTS | SHAPE):
        check_number(f"parameters.{name}", form, key)
    if form.keys() >= BOUNDS and form["min"] > form["max"]:
        raise ValueError(f"parameters.{name}: min {form['min']} is above max {form['max']}")
    if kind.endswith("_values") and form["min"] <= 0:
        raise ValueError(f"parameters.{name}: distribution {kind} needs min above 0, not {form['min']}")
    if kind == "int_uniform" and not (isinstance(form["min"], int) and isinstance(form["max"], int)):
        raise ValueError(f"parameters.{name}: int_uniform needs whole numbers")
    for key in ("q", "sigma", "a", "b"):
        if form.get(key, 1) <= 0:
            raise ValueError(f"parameters.{name}.{key}: must be above 0, not {form[key]}")
    _check_values(name, form)


def _check_values(name: str, form: Mapping[str, Any]) -> None:
    values = form.get("values", [form["value"]] if "value" in form else [0])
    if not isinstance(values, list) or not values:
        raise ValueError(f"parameters.{name}.values: a list with at least one value is needed")
    for value in values:
        if isinstance(value, str) and EXPONENT_STRING.fullmatch(value):
            raise ValueError(f"parameters.{name}: YAML reads {value} as text; write {float(value):.1e} with a point")
    weights = form.get("probabilities")
    if weights is not None and (len(weights) != len(values) or min(weights) < 0 or not math.isclose(sum(weights), 1)):
        raise ValueError(f"parameters.{name}.probabilities: one per value, summing to 1, is needed")


def check_number(where: str, form: Mapping[str, Any], key: str) -> None:
    """Raise a ValueError that names the key unless its value is a finite number."""
    value = form[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = " (YAML needs a point: 1.0e-3)" if isinstance(value, str) and EXPONENT_STRING.fullmatch(value) else ""
        raise ValueError(f"{where}.{key}: a number is needed, not {value!r}{hint}")


def grid_points(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List a grid's points in the file's order, the last parameter running fastest.

    Args:
        parameters: Checked parameter forms.

    Returns:
        One dictionary per point, as W&B hands it to a run: nested parameters are nested dictionaries.
    """
    paths, forms = zip(*leaves(parameters), strict=True)
    choices = [_grid_values(form) for form in forms]
    return [nest(paths, values) for values in itertools.product(*choices)]


def _grid_values(form: Mapping[str, Any]) -> list[Any]:
    if "values" in form or "value" in form:
        return [json.loads(choice) for choice in _choices({"values": [form.get("value")], **form})]
    step = form.get("q", 1)
    count = math.floor((form["max"] - form["min"]) / step + 1e-9) + 1
    return [form["min"] + index * step for index in range(count)]


def nest(paths: Any, values: Any) -> dict[str, Any]:
    """Put each value at its path into a nested dictionary."""
    point: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        inner = point
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return point


def suggest_point(trial: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Draw one point from a trial.

    A distribution that Optuna has not is drawn as a quantile and mapped through its inverse distribution function, and
    `q_` distributions are rounded to multiples of q afterwards, as W&B defines them.

    Args:
        trial: An `optuna.trial.Trial`, or anything with its `suggest_*` methods.
        parameters: Checked parameter forms.

    Returns:
        The point, as W&B hands it to a run.
    """
    paths, forms = zip(*leaves(parameters), strict=True)
    values = [_suggest(trial, ".".join(path), form) for path, form in zip(paths, forms, strict=True)]
    return nest(paths, values)


def _choices(form: Mapping[str, Any]) -> list[str]:
    # JSON text keeps 0, 0.0 and False apart, which Optuna's categories do not, and lets lists be choices.
    return list(dict.fromkeys(json.dumps(value) for value in form["values"]))


def _suggest(trial: Any, name: str, form: Mapping[str, Any]) -> Any:
    kind = distribution_of(name, form)
    if kind == "constant":
        return form["value"]
    if kind == "categorical":
        return json.loads(trial.suggest_categorical(name, _choices(form)))
    if kind == "int_uniform":
        return trial.suggest_int(name, form["min"], form["max"])
    form = {**DEFAULTS, **form}
    value = SAMPLERS[kind.removeprefix("q_")](trial, name, form)
    if not kind.startswith("q_"):
        return value
    return type(form["q"])(round(value / form["q"]) * form["q"])


def _quantile(trial: Any, name: str) -> float:
    return min(max(trial.suggest_float(name, 0.0, 1.0), 1e-9), 1 - 1e-9)


def _weighted(trial: Any, name: str, form: Mapping[str, Any]) -> Any:
    totals = list(itertools.accumulate(form["probabilities"]))
    quantile = _quantile(trial, name) * totals[-1]
    return next(value for value, total in zip(form["values"], totals, strict=True) if quantile <= total)


def _normal(trial: Any, name: str, form: Mapping[str, Any]) -> float:
    return NormalDist(form["mu"], form["sigma"]).inv_cdf(_quantile(trial, name))


def _beta(trial: Any, name: str, form: Mapping[str, Any]) -> float:
    from scipy.stats import beta

    return float(beta.ppf(_quantile(trial, name), form["a"], form["b"]))


def _log_uniform(low: Callable[[Any], float], high: Callable[[Any], float]) -> Callable[[Any, str, Any], float]:
    return lambda trial, name, form: trial.suggest_float(name, low(form), high(form), log=True)


SAMPLERS: dict[str, Callable[[Any, str, Any], Any]] = {
    "categorical_w_probabilities": _weighted,
    "uniform": lambda trial, name, form: trial.suggest_float(name, form["min"], form["max"]),
    # min and max are exponents of e here; of 1/x in the inverse forms
    "log_uniform": _log_uniform(lambda form: math.exp(form["min"]), lambda form: math.exp(form["max"])),
    "inv_log_uniform": _log_uniform(lambda form: math.exp(-form["max"]), lambda form: math.exp(-form["min"])),
    "log_uniform_values": _log_uniform(lambda form: form["min"], lambda form: form["max"]),
    "inv_log_uniform_values": _log_uniform(lambda form: form["min"], lambda form: form["max"]),
    "normal": _normal,
    "log_normal": lambda trial, name, form: math.exp(_normal(trial, name, form)),
    "beta": _beta,
}
