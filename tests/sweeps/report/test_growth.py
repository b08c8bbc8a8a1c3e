import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf
from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.callbacks.functional import symmetry
from symbreak.sweeps.report.growth import escapes, growth_fit, median_step, thresholds
from symbreak.sweeps.report.table import load_runs

NAN = math.nan


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
    assert math.isnan(found["escape"].iloc[0])
    assert found["previous"].iloc[0] == found["last"].iloc[0] == 200
    assert found["escape"].iloc[1] - found["previous"].iloc[1] == 5
    assert found.iloc[2].tolist() == [0, -1, 200, True]
    own = table.series("symmetry/max_feature_asymmetry").query("run == 1").set_index("step")["value"]
    assert own[found["previous"].iloc[1]] < 0.1 <= own[found["escape"].iloc[1]]


def test_each_run_escapes_by_its_own_threshold(real_table):
    found = escapes(real_table).assign(run=real_table.runs["run"]).set_index("run")
    same = "1-noise", "9-threshold"  # one seed and one noise scale
    assert thresholds(real_table) == [0.1, 0.5]
    assert found["escape"][same[0]] < found["escape"][same[1]]
    series = real_table.series("symmetry/max_feature_asymmetry")
    for name, level in zip(same, (0.1, 0.5), strict=True):
        own = series[real_table.runs["run"].to_numpy()[series["run"]] == name].set_index("step")["value"]
        assert own[found["previous"][name]] < level <= own[found["escape"][name]]


def test_runs_that_are_not_finished_are_censored_where_they_were_measured_last(real_table):
    found = escapes(real_table).assign(run=real_table.runs["run"]).set_index("run")
    for name in ("3-preempted", "4-killed"):
        assert math.isnan(found["escape"][name])
        assert 10 <= found["last"][name] <= 20
        assert not found["finished"][name]
    assert found["finished"]["6-resumed"]
    assert found["escape"]["6-resumed"] > 20


def test_a_history_cut_short_does_not_undo_the_escape_that_the_run_noted(real_runs, tmp_path):
    folder = shutil.copytree(real_runs / "2-noise", tmp_path / "run")
    lines = (folder / "metrics.csv").read_bytes().splitlines(keepends=True)
    (folder / "metrics.csv").write_bytes(b"".join(lines[:30]) + lines[30][:9])
    found = escapes(load_runs([tmp_path])).iloc[0]
    assert found["escape"] == json.loads((folder / "summary.json").read_text())["symmetry/escape_step"]
    assert 0 < found["previous"] < found["escape"] == found["last"]


@pytest.mark.parametrize(
    ("steps", "last", "expected"),
    [
        ([100, 110, 130], [600, 600, 600], (110, True)),
        ([100, 110], [600, 600], (105, True)),
        ([100, 110, NAN], [600, 600, 600], (110, True)),
        ([100, 110, NAN], [600, 600, 40], (105, True)),
        ([100, NAN], [600, 600], (600, False)),
        ([100, NAN, NAN], [600, 20, 30], (100, True)),
        ([NAN, NAN], [30, 40], (40, False)),
        ([7], [9], (7, True)),
    ],
)
def test_medians_of_censored_events(steps, last, expected):
    assert median_step(np.array(steps, dtype=float), np.array(last, dtype=float)) == expected


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=12).filter(
        lambda runs: any(x for _, x in runs)
    )
)
@settings(max_examples=60, deadline=None)
def test_medians_are_those_of_kaplan_and_meier(runs):
    times, occurred = (np.array(column) for column in zip(*runs, strict=True))
    curve = ecdf(CensoredData.right_censored(times, ~occurred)).sf
    step, is_known = median_step(np.where(occurred, times, np.nan), times)
    assert is_known == (curve.probabilities[-1] < 0.5 - 1e-9)
    if is_known:
        at = curve.quantiles[curve.probabilities < 0.5 + 1e-9][0]
        below = curve.quantiles[curve.probabilities < 0.5 - 1e-9][0]
        assert step == (at + below) / 2
