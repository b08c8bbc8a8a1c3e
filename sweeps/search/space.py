"""W&B's parameter forms: checking them, and listing a grid's points."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
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
        if not isinstance(name, str):
            raise ValueError(f"parameters.{'.'.join((*path, str(name)))}: a name is text; write {name!r} in quotes")
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
        name = ".".join(path)
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
        _check_json(f"parameters.{name}", value)
        if isinstance(value, str) and EXPONENT_STRING.fullmatch(value):
            raise ValueError(f"parameters.{name}: YAML reads {value} as text; write {float(value):.1e} with a point")
    weights = form.get("probabilities")
    if weights is not None and not (isinstance(weights, list) and all(map(_is_number, weights))):
        raise ValueError(f"parameters.{name}.probabilities: a list of numbers is needed, not {weights!r}")
    if weights is not None and (len(weights) != len(values) or min(weights) < 0 or not math.isclose(sum(weights), 1)):
        raise ValueError(f"parameters.{name}.probabilities: one per value, summing to 1, is needed")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _check_json(where: str, value: Any) -> None:
    try:
        json.dumps(value)
    except TypeError:
        raise ValueError(f"{where}: {value} is a {type(value).__name__} to YAML; write it in quotes") from None


def check_number(where: str, form: Mapping[str, Any], key: str) -> None:
    """Raise a ValueError that names the key unless its value is a finite number."""
    value = form[key]
    if not _is_number(value):
        hint = " (YAML needs a point: 1.0e-3)" if isinstance(value, str) and EXPONENT_STRING.fullmatch(value) else ""
        raise ValueError(f"{where}.{key}: a number is needed, not {value!r}{hint}")


def grid_size(parameters: Mapping[str, Any]) -> int:
    """Return the number of points of a grid."""
    return math.prod(len(_grid_values(form)) for _, form in leaves(parameters))


def covering(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fewest grid points that contain every value of every parameter."""
    paths, forms = zip(*leaves(parameters), strict=True)
    columns = [_grid_values(form) for form in forms]
    count = max(map(len, columns))
    return [nest(paths, [values[index % len(values)] for values in columns]) for index in range(count)]


def is_varying(form: Mapping[str, Any]) -> bool:
    """Return whether a parameter can take more than one value."""
    if "values" in form:
        return len(choices(form)) > 1
    return distribution_of("", form) != "constant" and form.get("min", 0) != form.get("max", 1)


def grid_points(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a grid's points in the file's order, the last parameter varying fastest.

    Args:
        parameters: Checked parameter forms.

    Yields:
        One dictionary per point, as W&B hands it to a run: nested parameters are nested dictionaries.
    """
    paths, forms = zip(*leaves(parameters), strict=True)
    for values in itertools.product(*map(_grid_values, forms)):
        yield nest(paths, values)


def _grid_values(form: Mapping[str, Any]) -> list[Any]:
    if "values" in form or "value" in form:
        return [json.loads(choice) for choice in choices({"values": [form.get("value")], **form})]
    if distribution_of("", form) == "int_uniform":
        return list(range(form["min"], form["max"] + 1))
    step = form.get("q", DEFAULTS["q"])
    count = max(1, math.ceil((form["max"] - form["min"]) / step - 1e-9))  # W&B's grid leaves out max
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


def choices(form: Mapping[str, Any]) -> list[str]:
    """Return the different values of a categorical parameter as JSON."""
    # JSON text keeps 0, 0.0 and False apart, which Optuna's categories do not, and lets lists be choices.
    return list(dict.fromkeys(json.dumps(value) for value in form["values"]))
