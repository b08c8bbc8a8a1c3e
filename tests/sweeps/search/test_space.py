import math
import statistics

import pytest

from symbreak.sweeps.search import space
from symbreak.sweeps.search.draw import suggest_point


class Fixed:
    """Stands in for a trial: every draw is the given fraction of its range."""

    def __init__(self, fraction):
        self.fraction = fraction

    def suggest_float(self, _name, low, high, log=False):
        if log:
            return math.exp(self.suggest_float(_name, math.log(low), math.log(high)))
        return low + self.fraction * (high - low)

    def suggest_int(self, _name, low, high):
        return min(high, low + int(self.fraction * (high - low + 1)))

    def suggest_categorical(self, _name, choices):
        return choices[min(int(self.fraction * len(choices)), len(choices) - 1)]


def draw(form, fraction):
    space.check_parameters({"x": form}, grid=False)
    return suggest_point(Fixed(fraction), {"x": form})["x"]


# quartiles by the definitions of W&B's documentation, worked out by hand or with the standard library
QUARTILES = [
    ({"value": [1, None]}, [1, None], [1, None]),
    ({"values": [0, False, 0.0, "a"]}, False, "a"),
    ({"values": ["a", "b"], "probabilities": [0.9, 0.1]}, "a", "a"),
    ({"values": ["a", "b"], "probabilities": [0.1, 0.9], "distribution": "categorical_w_probabilities"}, "b", "b"),
    ({"min": 1, "max": 4}, 2, 4),
    ({"min": 1.0, "max": 5.0}, 2.0, 4.0),
    ({"distribution": "uniform", "min": 1, "max": 5}, 2.0, 4.0),
    ({"distribution": "q_uniform", "min": 1.0, "max": 9.0}, 3, 7),
    ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5}, 0.0, 1.0),
    ({"distribution": "log_uniform", "min": 0, "max": 4}, math.e, math.exp(3)),
    ({"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0}, 1e-3, 1e-1),
    ({"distribution": "q_log_uniform", "min": 0, "max": 4}, 3, 20),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 256, "q": 4}, 4, 64),
    ({"distribution": "inv_log_uniform", "min": 0, "max": 4}, math.exp(-3), math.exp(-1)),
    ({"distribution": "inv_log_uniform_values", "min": 1.0e-4, "max": 1.0}, 1e-3, 1e-1),
    ({"distribution": "normal"}, -0.6744897501960817, 0.6744897501960817),
    ({"distribution": "normal", "mu": 10, "sigma": 2}, 8.651020499607837, 11.348979500392163),
    ({"distribution": "q_normal", "mu": 10, "sigma": 2}, 9, 11),
    ({"distribution": "log_normal"}, math.exp(-0.6744897501960817), math.exp(0.6744897501960817)),
    ({"distribution": "q_log_normal", "mu": 3.0, "q": 10}, 10, 40),
    ({"distribution": "beta", "a": 1, "b": 1}, 0.25, 0.75),
    ({"distribution": "beta", "a": 2, "b": 1}, 0.5, math.sqrt(0.75)),
    ({"distribution": "q_beta", "a": 1, "b": 1, "q": 0.5}, 0.0, 1.0),
]


@pytest.mark.parametrize(("form", "lower", "upper"), QUARTILES)
def test_quartiles(form, lower, upper):
    for fraction, expected in ((0.25, lower), (0.75, upper)):
        value = draw(form, fraction)
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)
        assert isinstance(value, type(expected)) or form.get("distribution", "").startswith("q_")


def test_every_distribution_is_in_the_table():
    kinds = {space.distribution_of("x", form) for form, _, _ in QUARTILES}
    assert kinds == set(space.DISTRIBUTIONS)


def test_optuna_draws_the_documented_distribution():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    form = {"x": {"distribution": "log_normal", "mu": 1.0, "sigma": 0.5}, "y": {"values": [[1], None, True]}}
    points = [suggest_point(study.ask(), form) for _ in range(400)]
    logs = [math.log(point["x"]) for point in points]
    assert statistics.mean(logs) == pytest.approx(1.0, abs=0.1)
    assert statistics.stdev(logs) == pytest.approx(0.5, abs=0.06)
    assert [sum(point["y"] is None for point in points), sum(point["y"] == [1] for point in points)] == pytest.approx(
        [133, 133], abs=35
    )


def test_grid_runs_through_nested_parameters_last_fastest():
    parameters = {
        "a": {"values": [1, None, 1]},
        "b": {"parameters": {"c": {"value": "x"}, "d": {"min": 2, "max": 3}}},
        "e": {"distribution": "q_uniform", "min": 0.0, "max": 1.5, "q": 0.5},
    }
    space.check_parameters(parameters, grid=True)
    points = list(space.grid_points(parameters))
    assert len(points) == 12
    assert points[0] == {"a": 1, "b": {"c": "x", "d": 2}, "e": 0.0}
    assert points[4] == {"a": 1, "b": {"c": "x", "d": 3}, "e": 0.5}
    assert points[-1] == {"a": None, "b": {"c": "x", "d": 3}, "e": 1.0}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (3, r"parameters\.x: a form such as `value: 3`"),
        ({}, r"parameters\.x: needs value, values, or min and max"),
        ({"min": 0}, "needs value, values, or min and max"),
        ({"distribution": "gauss"}, r"parameters\.x: unknown distribution 'gauss'; distributions: constant"),
        ({"min": 0, "max": 1.0}, "both be whole numbers, or both floats"),
        ({"min": 2.0, "max": 1.0}, r"min 2\.0 is above max 1\.0"),
        ({"min": "1e-3", "max": 1.0}, r"parameters\.x\.min: a number is needed, not '1e-3' \(YAML needs a point"),
        ({"values": []}, "a list with at least one value"),
        ({"values": ["1e-3"]}, r"YAML reads 1e-3 as text; write 1\.0e-03"),
        ({"value": 1, "min": 0}, "distribution constant knows no min"),
        ({"distribution": "uniform", "min": 0}, "distribution uniform needs max"),
        ({"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}, "needs min above 0"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "int_uniform needs whole numbers"),
        ({"distribution": "normal", "sigma": 0}, r"parameters\.x\.sigma: must be above 0"),
        ({"distribution": "q_beta", "q": -1}, r"parameters\.x\.q: must be above 0"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "one per value, summing to 1"),
    ],
)
def test_wrong_form_is_named(form, message):
    with pytest.raises(ValueError, match=message):
        space.check_parameters({"x": form}, grid=False)


@pytest.mark.parametrize("kind", sorted(set(space.DISTRIBUTIONS) - set(space.COUNTABLE)))
def test_grid_over_a_continuous_range_is_refused(kind):
    form = next(form for form, _, _ in QUARTILES if space.distribution_of("x", form) == kind)
    with pytest.raises(ValueError, match=rf"parameters\.a\.x: a grid cannot run over .*{kind}"):
        space.check_parameters({"a": {"parameters": {"x": form}}}, grid=True)
