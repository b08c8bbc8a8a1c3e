import math

import numpy as np
import pytest
from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.callbacks.functional import symmetry
from symbreak.sweeps.report.growth import escapes, growth_fit, threshold
from symbreak.sweeps.report.table import load_runs


def test_an_exponential_is_found_exactly():
    steps = np.arange(0, 400, 4)
    fit = growth_fit(steps, 1e-9 * np.exp(0.05 * steps))
    assert fit is not None
    assert fit.rate == pytest.approx(0.05)
    assert fit.r2 == pytest.approx(1)
    assert fit.line()[1][0] == pytest.approx(1e-9 * math.exp(0.05 * fit.start))
    assert 1e-6 <= fit.line()[1][0] < fit.line()[1][1] < 1e-2


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_callback(seed):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 5, 300))
    values = np.minimum(1e-8 * np.exp(np.cumsum(rng.normal(0.08, 0.05, 300))), 1)
    values[:10] = 0
    expected = symmetry.growth(steps.tolist(), values.tolist())
    fit = growth_fit(steps, values)
    assert expected is not None
    assert fit is not None
    assert (fit.rate, fit.r2) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[0.0] * 9, [1e-5] * 9, [0.5] * 9, [0, 0, 0.5, 0.5], [1e-3, 0.5]])
def test_without_a_rise_there_is_no_fit(values):
    assert growth_fit(np.arange(len(values)), np.array(values)) is None


def test_escapes_bracket_the_crossing(tmp_path):
    for number, changes in enumerate([{}, {"noise": 1e-3}, {"init": "he"}]):
        write_run(tmp_path / str(number), config_of(**changes), 200)
    table = load_runs([tmp_path])
    found = escapes(table)
    assert found["escape"].iloc[0] == math.inf
    assert found["previous"].iloc[0] == found["last"].iloc[0] == 200
    assert found["escape"].iloc[1] - found["previous"].iloc[1] == 5
    assert found.iloc[2].tolist() == [0, -1, 200]
    own = table.series("symmetry/max_feature_asymmetry").query("run == 1").set_index("step")["value"]
    assert own[found["previous"].iloc[1]] < 0.1 <= own[found["escape"].iloc[1]]


def test_the_runs_own_threshold_is_used(tmp_path):
    config = config_of(noise=1e-3) | {"symmetry_breaking": {"threshold": 0.5}}
    write_run(tmp_path / "run", config, 200)
    table = load_runs([tmp_path])
    assert threshold(table) == 0.5
    own = table.series("symmetry/max_feature_asymmetry").set_index("step")["value"]
    assert own[escapes(table)["escape"].iloc[0]] >= 0.5
