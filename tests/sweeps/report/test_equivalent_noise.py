import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.sweeps.report.example_runs import config_of, write_run
from tests.sweeps.report.recorded import RESULTS, recorded

from symbreak.sweeps.record.contents import DIGITS, equivalents_frame
from symbreak.sweeps.record.markdown import escape
from symbreak.sweeps.report.equivalent_noise import Curve, decreasing, noise_laws, place, scale_at
from symbreak.sweeps.report.growth import ASYMMETRY
from symbreak.sweeps.report.sentences import sentences
from symbreak.sweeps.report.table import load_runs

NAN = math.nan
SCALES = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
STEPS = np.array([256.0, 236, 224, 196, 136, 108, 76])
CURVE = Curve(SCALES, STEPS - 4, STEPS, STEPS, np.ones(7))


def source(*escapes, spacing=4, last=800, finished=True):
    rows = [(step, last if math.isnan(step) else step - spacing, last, finished) for step in escapes]
    return place(CURVE, "source", "arm", pd.DataFrame(rows, columns=["escape", "previous", "last", "finished"]))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(236, 1e-7), (224, 1e-6), (230, math.sqrt(1e-7 * 1e-6)), (76, 1e-2), (256, 1e-8), (257, 0.0), (75, math.inf)],
)
def test_scale_at_interpolates_and_never_extrapolates(step, expected):
    assert scale_at(step, SCALES, STEPS) == pytest.approx(expected)


def test_a_plateau_gives_the_middle_of_its_ends():
    assert scale_at(100, SCALES[:3], np.array([100.0, 100, 50])) == pytest.approx(math.sqrt(1e-8 * 1e-7))


def test_scales_that_never_escape_bound_the_curve():
    steps = np.array([math.inf, 200.0, 100])
    assert scale_at(150, SCALES[:3], steps) == pytest.approx(math.sqrt(1e-7 * 1e-6))
    assert scale_at(201, SCALES[:3], steps) == 0
    assert scale_at(math.inf, SCALES[:3], steps) == 0
    assert scale_at(1, SCALES[:1], np.array([math.inf])) == 0


def test_decreasing_pools_violators():
    np.testing.assert_allclose(decreasing(np.array([5.0, 3, 4, 1])), [5, 3.5, 3.5, 1])
    np.testing.assert_allclose(decreasing(np.array([1.0, 2, 3])), [2, 2, 2])
    np.testing.assert_allclose(decreasing(np.array([1.0, 4.0]), np.array([3.0, 1.0])), [1.75, 1.75])
    values = np.random.default_rng(0).normal(size=50)
    pooled = decreasing(values)
    assert (np.diff(pooled) <= 1e-12).all()
    assert pooled.mean() == pytest.approx(values.mean())


def fit(*values):
    """Fit values of which the negative ones are lower bounds."""
    array = np.array(values, dtype=float)
    return decreasing(abs(array), None, array > 0)


def test_a_lower_bound_moves_the_fit_only_where_it_lies_above():
    np.testing.assert_allclose(fit(200, -50, 150), [200, 200, 150])
    np.testing.assert_allclose(fit(200, -250, 150), [225, 225, 150])
    np.testing.assert_allclose(fit(200, -50, 250), [225, 225, 225])
    np.testing.assert_allclose(fit(-500, 200, 150), [math.inf, 200, 150])
    np.testing.assert_allclose(fit(-50, -60), [math.inf, math.inf])


@given(st.lists(st.tuples(st.floats(1, 100), st.booleans()), min_size=1, max_size=7))
@settings(max_examples=40, deadline=None)
def test_the_fit_with_lower_bounds_is_the_best_non_increasing_one(points):
    values, known = np.array([value for value, _ in points]), np.array([exact for _, exact in points])

    def loss(fitted):
        short = values - fitted
        return float((np.where(known, short, short.clip(min=0)) ** 2).sum())

    def by_steps(drops):  # fitted values are the sums of later, non-negative drops
        return np.cumsum(drops[::-1])[::-1]

    fitted = decreasing(values, None, known)
    assert (fitted[1:] <= fitted[:-1]).all()
    found = minimize(lambda drops: loss(by_steps(drops)), np.full(len(values), 10.0), bounds=[(0, None)] * len(values))
    assert loss(np.minimum(fitted, 1e9)) <= found.fun + 1e-3


def test_published_sources_are_placed_where_the_law_says():
    assert source(284).text == "below 1e-8"
    assert source(236).scale == pytest.approx(1e-7)
    assert source(224).scale == pytest.approx(1e-6)
    assert source(NAN).text == "no escape"
    assert source(NAN, last=40, finished=False).text == "no escape by step 40"
    assert source(40).text == "above 0.01"


def test_the_interval_holds_the_estimate_and_widens_with_the_seeds():
    one, many = source(224), source(210, 224, 240)
    assert one.low < one.scale < one.high
    assert many.low < one.low
    assert many.high > one.high
    assert many.scale == one.scale


def test_an_open_end_is_named_as_such():
    late = source(230, 250, 300)
    assert late.low == 0
    assert "(below 1e-8 to " in late.text
    most = source(224, 224, NAN)
    assert most.scale == pytest.approx(1e-6)
    assert most.low == 0


def test_seeds_that_have_not_escaped_bound_the_scale_by_where_they_are():
    assert source(100, NAN, last=224).text == "below 1e-6"
    assert source(100, NAN, last=800).text == "below 1e-8"
    half = source(100, NAN, last=224)
    assert (half.step, half.open_at, half.runs, half.not_escaped) == (math.inf, 224, 2, 1)
    stopped = pd.DataFrame({"escape": [224, 224, NAN], "previous": [220, 220, 30], "last": 30, "finished": False})
    found = place(CURVE, "source", "arm", stopped.assign(last=[800, 800, 30]))
    assert found == replace(source(224, 224), runs=3, not_escaped=1)


def test_the_table_gives_one_curve_with_all_sources(law_table):
    (law,) = noise_laws(law_table)
    np.testing.assert_allclose(law.curve.scales, SCALES)
    assert (np.diff(law.curve.middle) < 0).all()
    assert law.curve.seeds.tolist() == [2] * 7
    assert [item.label for item in law.sources] == [
        "rounding noise 1 ulp",
        "rounding noise 10 ulps",
        "rounding noise 100 ulps",
    ]
    assert law.sources[0].scale == 0
    assert 1e-8 < law.sources[1].scale < law.sources[2].scale < 1e-6


def test_an_unfinished_noise_scale_erases_no_other(real_table):
    (law,) = noise_laws(real_table)
    assert law.curve.scales.tolist() == [0.01, 0.03]
    assert law.curve.seeds.tolist() == [2, 1]
    assert law.curve.middle[0] > law.curve.middle[1] > 20
    assert set(law.curve.left_out) == {0.001, 0.02}
    assert all(10 <= step <= 20 for step in law.curve.left_out.values())


def test_world_size_and_reduction_reach_the_curve(real_table):
    (law,) = noise_laws(real_table)
    assert {item.label: item.escaped for item in law.sources} == {
        "rounding noise 1e+06 ulps": True,
        "ordered all-reduce over 2 ranks": False,
    }


def test_the_equivalents_in_the_record_are_those_of_its_runs():
    table = recorded("noise_law")
    steps = np.arange(0, 501, table.configs[0]["symmetry_breaking.every_n_steps"])  # the recorded history is thinned
    one = pd.DataFrame({"step": steps, ASYMMETRY: 1.0})
    table = replace(table, history=pd.concat([one.assign(run=run) for run in table.runs.index], ignore_index=True))
    found = equivalents_frame(table)
    assert found.to_csv(index=False, float_format=DIGITS) == (RESULTS / "noise_law" / "equivalents.csv").read_text()
    (bit,) = found[found["label"] == "bit 0 of one weight at step 0"].to_dict("records")
    own = table.runs.loc[table.runs["arm"] == bit["arm"], "symmetry/escape_step"]
    expected = [own.fillna(math.inf).median(), len(own), own.isna().sum()]
    assert [bit[key] for key in ("step", "runs", "not_escaped")] == expected == [244, 5, 1]
    text = (RESULTS / "noise_law" / "README.md").read_text()
    for sentence in sentences(table):
        if sentence.text.startswith("acts like initial noise of scale "):
            assert f"- **{escape(sentence.subject)}** {escape(sentence.text)}\n" in text


def test_each_setting_has_its_own_curve_and_random_starts_have_none(tmp_path):
    runs = [{"noise": noise, "depth": depth} for noise in (1e-4, 1e-2) for depth in (10, 16)]
    runs += [{"ulps": 10.0}, {"ulps": 10.0, "noise": 1e-4}, {"init": "he"}]
    for number, changes in enumerate(runs):
        write_run(tmp_path / str(number), config_of(**changes), 400)
    shallow, deep = noise_laws(load_runs([tmp_path]))
    assert [item.label for item in shallow.sources] == ["rounding noise 10 ulps"]
    assert deep.sources == []
    assert shallow.setting != deep.setting


def test_noise_on_top_of_a_common_source_makes_a_curve_too(tmp_path):
    for number, noise in enumerate((1e-4, 1e-2)):
        write_run(tmp_path / str(number), config_of(noise=noise, mode="nondeterministic"), 400)
    (law,) = noise_laws(load_runs([tmp_path]))
    assert law.curve.scales.tolist() == [1e-4, 1e-2]


def test_too_little_data_gives_no_law(sweep_table):
    assert noise_laws(sweep_table) == []


def test_ranks_that_share_the_batch_belong_to_the_setting_of_the_whole_batch(tmp_path):
    for number, scale in enumerate((1e-6, 1e-4)):
        write_run(tmp_path / f"{number}-noise", config_of(noise=scale), number=number)
    shared = config_of(ulps=100.0)
    shared["trainer"] |= {"devices": 4, "strategy": "ddp"}
    shared["data"]["init_args"] |= {"batch_size": 32}
    write_run(tmp_path / "2-ranks", shared)
    note = tmp_path / "2-ranks" / "run.json"
    note.write_text(note.read_text().replace('"world_size": 1', '"world_size": 4'))
    (law,) = noise_laws(load_runs([tmp_path]))
    assert [each.label for each in law.sources] == ["rounding noise 100 ulps + all-reduce over 4 ranks"]
