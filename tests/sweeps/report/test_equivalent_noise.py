import math

import numpy as np
import pandas as pd
import pytest
from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.sweeps.report.equivalent_noise import Curve, decreasing, noise_laws, place, scale_at
from symbreak.sweeps.report.table import load_runs

SCALES = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
STEPS = np.array([256.0, 236, 224, 196, 136, 108, 76])
CURVE = Curve(SCALES, STEPS - 4, STEPS, STEPS, np.ones(7))


def source(*escapes, spacing=4, last=800):
    rows = [(step, min(step - spacing, last), last) for step in escapes]
    return place(CURVE, "source", "arm", pd.DataFrame(rows, columns=["escape", "previous", "last"]))


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
    np.testing.assert_array_equal(decreasing(np.array([math.inf, math.inf, 2])), [math.inf, math.inf, 2])
    values = np.random.default_rng(0).normal(size=50)
    pooled = decreasing(values)
    assert (np.diff(pooled) <= 1e-12).all()
    assert pooled.mean() == pytest.approx(values.mean())


def test_published_sources_are_placed_where_the_law_says():
    assert source(284).text == "below 1e-8"
    assert source(236).scale == pytest.approx(1e-7)
    assert source(224).scale == pytest.approx(1e-6)
    assert source(math.inf).text == "no escape"
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
    half = source(224, 224, math.inf)
    assert half.scale == pytest.approx(1e-6)
    assert half.low == 0


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
