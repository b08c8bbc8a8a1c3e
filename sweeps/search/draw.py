"""Drawing a point of a search space from an Optuna trial."""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

from symbreak.sweeps.search.space import DEFAULTS, choices, distribution_of, leaves, nest


def suggest_point(trial: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Draw one point from a trial.

    A distribution that Optuna lacks is drawn as a quantile and mapped by its inverse distribution function. `q_`
    distributions are then rounded to multiples of q, as W&B defines them.

    Args:
        trial: An `optuna.trial.Trial`, or anything with its `suggest_*` methods.
        parameters: Checked parameter forms.

    Returns:
        The point, as W&B hands it to a run.
    """
    paths, forms = zip(*leaves(parameters), strict=True)
    values = [_suggest(trial, ".".join(path), form) for path, form in zip(paths, forms, strict=True)]
    return nest(paths, values)


def _suggest(trial: Any, name: str, form: Mapping[str, Any]) -> Any:
    kind = distribution_of(name, form)
    if kind == "constant":
        return form["value"]
    if kind == "categorical":
        return json.loads(trial.suggest_categorical(name, choices(form)))
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
