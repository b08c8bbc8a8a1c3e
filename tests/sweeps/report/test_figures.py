import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.sweeps.report.example_runs import ARMS, config_of, write_run

from symbreak.sweeps.report.figures import (
    FIGURES,
    choose,
    correlation,
    layers,
    networks,
    noise,
    parallel,
    symmetry,
    training,
)
from symbreak.sweeps.report.figures.audit import COLORS, matrix
from symbreak.sweeps.report.figures.style import (
    INK,
    MAX_ARMS,
    MAX_POINTS,
    PALETTE,
    arm_styles,
    bands,
    log_ticks,
    plain,
    thin,
)
from symbreak.sweeps.report.table import load_runs, tabulate

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def traces(figure) -> list[Any]:
    assert figure is not None
    return list(figure.plot.data)


def layout(figure) -> Any:
    assert figure is not None
    return figure.plot.layout


def lines(figure):
    return [trace for trace in traces(figure) if "lines" in (trace.mode or "") and trace.fill is None]


def test_colours_are_okabe_itos_and_stand_out_from_both_papers():
    assert set(PALETTE) - {INK} <= OKABE_ITO
    for color in set(PALETTE) - {INK}:
        on_white, on_black = 1.05 / (luminance(color) + 0.05), (luminance(color) + 0.05) / (luminance("#161b21") + 0.05)
        assert min(on_white, on_black) > 2


def test_every_figure_has_words_axes_and_valid_json(sweep_figures, law_table):
    figures = sweep_figures + choose(law_table)
    assert {figure.key for figure in figures} >= {"accuracy", "loss", "growth", "equivalent-noise", "parallel"}
    for figure in figures:
        assert len(figure.caption) > 60
        assert figure.caption.endswith(".")
        assert figure.title
        assert json.loads(figure.plot.to_json() or "")["data"]
        for axis in ("xaxis", "yaxis"):
            given = figure.plot.to_plotly_json()["layout"][axis]
            assert "title" in given or given.get("visible") is False or figure.key.endswith(("map", "filters"))


def test_without_data_there_are_no_figures():
    table = tabulate([])
    assert choose(table) == []
    assert all(not draw(table) for draw in FIGURES)


def test_one_line_per_arm_with_a_band_over_seeds(sweep_table):
    figure = training.loss(sweep_table)
    assert [trace.name for trace in lines(figure)] == list(ARMS)
    filled = [trace for trace in traces(figure) if trace.fill == "toself"]
    assert len(filled) == len(ARMS)
    frame = sweep_table.series("train/loss").query("arm == 'He init' and step == 600")
    assert lines(figure)[-1].y[-1] == pytest.approx(frame["value"].mean())


def test_an_arm_of_one_run_has_no_band(tmp_path):
    write_run(tmp_path / "run", config_of(), 100)
    figure = training.loss(load_runs([tmp_path]))
    assert [trace.fill for trace in traces(figure)] == [None]


def test_exact_zeros_stand_on_a_labelled_floor(sweep_table):
    figure = symmetry.growth(sweep_table)
    zero = next(trace for trace in lines(figure) if trace.name == "zero init, strict")
    axis = layout(figure).yaxis
    assert set(zero.y) == {axis.tickvals[0]}
    assert axis.ticktext[0] == "exactly 0"
    assert set(zero.customdata) == {0.0}
    positive = [y for trace in lines(figure) if trace is not zero and trace.customdata is not None for y in trace.y]
    assert min(positive) > 10 * axis.tickvals[0]
    assert 10 ** axis.range[0] < axis.tickvals[0]


def test_growth_marks_broken_and_escape_steps_and_draws_the_fit(sweep_table):
    figure = symmetry.growth(sweep_table)
    marks = {(trace.name, trace.marker.symbol) for trace in traces(figure) if trace.mode == "markers"}
    assert ("1 ulp rounding noise", "star") in marks
    assert ("1 ulp rounding noise", "diamond-open") in marks
    assert ("He init", "star") not in marks
    assert not any(name == "zero init, strict" for name, _ in marks)
    fits = [trace for trace in traces(figure) if "growth" in (trace.hovertemplate or "")]
    assert "1 ulp rounding noise" in {trace.name for trace in fits}
    assert all("tenfold in" in trace.hovertemplate for trace in fits)


def test_all_zero_asymmetry_is_drawn(tmp_path):
    write_run(tmp_path / "run", config_of(), 100)
    figure = symmetry.growth(load_runs([tmp_path]))
    assert all(np.isfinite(trace.y).all() for trace in lines(figure))


def test_heat_maps_have_a_panel_per_arm_and_a_row_per_layer(sweep_table):
    figure = layers.distinct_filters(sweep_table)
    assert len(traces(figure)) == len(ARMS)
    strict = traces(figure)[0]
    assert strict.z.shape[0] == 7
    np.testing.assert_array_equal(strict.customdata[:-1], 1)
    np.testing.assert_allclose(np.exp2(strict.z), strict.customdata, rtol=1e-6)
    for draw in (layers.forward_correlation, layers.backward_correlation):
        figure = draw(sweep_table)
        assert traces(figure)[0].z.max() == 1


def test_heat_maps_are_thinned_and_keep_the_extreme(tmp_path):
    folder = write_run(tmp_path / "run", config_of(), 20)
    counts = np.full(5000, 16)
    counts[3333] = 1
    rows = "".join(f"{step},{count}\n" for step, count in enumerate(counts))
    (folder / "metrics.csv").write_text(f"step,symmetry/distinct_filters/a\n{rows}")
    figure = layers.distinct_filters(load_runs([tmp_path]))
    assert traces(figure)[0].z.shape[1] <= layers.MAX_COLUMNS
    assert traces(figure)[0].customdata.min() == 1


def test_layer_names_are_short_and_distinct():
    names = layers.short_layers(["model.blocks.0.conv", "model.blocks.1.conv", "model.head"])
    assert names == ["blocks.0.conv", "blocks.1.conv", "head"]
    alike = layers.short_layers([f"{prefix}.a_rather_long_common_tail" for prefix in "ab"])
    assert len(set(alike)) == 2
    assert layers.short_layers(["only"]) == ["only"]


def test_equivalent_noise_prints_every_source(law_table):
    (figure,) = noise.equivalent_noise(law_table)
    names = [trace.name for trace in traces(figure) if trace.name]
    assert names[0] == "initial noise"
    assert re.fullmatch(r"rounding noise 1 ulp: below 1e-8", names[1])
    assert re.fullmatch(r"rounding noise 10 ulps: \S+ \(.+ to .+\)", names[2])
    assert names[2] in figure.caption
    assert "interval" in figure.caption.casefold()
    assert "Not on the line" not in figure.caption


def test_equivalent_noise_names_the_scales_that_it_leaves_out(real_table):
    (figure,) = noise.equivalent_noise(real_table)
    assert re.search(r"had not escaped by their last step: 0\.001 \(step 1\d\), 0\.02 \(step 1\d\)\.", figure.caption)


def test_correlations_are_compared_with_those_of_he(sweep_table, law_table):
    figure = correlation.difference(sweep_table)
    named = {trace.name: trace for trace in traces(figure)}
    assert len(named) == 2 * (len(sweep_table.arms) - 1) + 2
    arm = "1 % dropout"
    for direction in ("forward", "backward"):
        series = sweep_table.series(f"diversity/{direction}_correlation")
        mean = series.groupby(["arm", "step"])["value"].mean()
        expected = mean[arm] - mean["He init"]
        trace = named[f"{arm}, {direction}"]
        np.testing.assert_allclose(trace.y, expected)
        np.testing.assert_array_equal(trace.x, expected.index)
        shade = named[f"He's seeds, {direction}"].y
        assert shade[: len(expected)].min() >= 0 >= shade[len(expected) :].max()
    assert correlation.difference(law_table) is None


def test_correlations_and_ranks_by_step(sweep_table):
    for draw in (correlation.forward, correlation.backward):
        figure = draw(sweep_table)
        assert len(lines(figure)) == len(ARMS)
    (figure,) = correlation.ranks(sweep_table)
    assert figure.title == "Stable rank change"


def test_leaky_net_by_init_string_and_accuracy_by_depth(tmp_path):
    strings = ["h_hhhh_hhhh_hhhh", "i_iiii_iiii_iiii"]
    for number, (init, depth) in enumerate((init, depth) for init in strings for depth in (10, 16)):
        write_run(tmp_path / str(number), config_of(init=init, depth=depth, model="LeakyNet"), 50)
    table = load_runs([tmp_path])
    by_init, by_depth = networks.init_strings(table), networks.depth(table)
    assert set(layout(by_init).yaxis.ticktext) == set(strings)
    assert [trace.name for trace in traces(by_init)] == [
        f"{what}, depth={n}" for n in (10, 16) for what in ("run", "mean")
    ]
    assert [len(trace.x) for trace in traces(by_init)] == [2] * 4
    assert [trace.name for trace in traces(by_depth)] == [f"init={string}" for string in strings]
    assert traces(by_depth)[0].x.tolist() == [10, 16]


def test_parallel_coordinates_treat_zero_words_and_decades(law_table):
    figure = parallel.parallel(law_table)
    noise_axis, *_, accuracy = traces(figure)[0].dimensions
    assert noise_axis.ticktext[0] == "0"
    assert min(noise_axis["values"]) == noise_axis.tickvals[0] == -9
    assert accuracy.label == "test accuracy"
    assert len(accuracy["values"]) == len(law_table.runs)


def test_audit_matrix_has_four_states_and_the_worst_case_decides():
    states = [(False, False), (True, False), (False, True), (True, True)]
    rows = [(f"op{i}", "float32", r, s) for i, (r, s) in enumerate(states)]
    rows += [("op3", "float64", True, True), ("op3", "float64", True, False), ("op0", "float64", None, None)]
    frame = pd.DataFrame(rows, columns=["operation", "precision", "repeatable", "symmetric"])
    heat = traces(matrix(frame, ""))[0]
    assert len(set(COLORS)) == 4
    assert heat.z[:, 0].tolist() == [0, 1, 2, 3]
    assert heat.z[3, 1] == 1
    assert np.isnan(heat.z[0, 1])
    assert heat.text[0, 1] == ""


def test_thinning_keeps_extremes_ends_and_bands():
    rng = np.random.default_rng(0)
    middle = rng.normal(size=20_000)
    middle[7777], middle[12_345] = 50, -50
    frame = pd.DataFrame({"step": np.arange(20_000), "middle": middle, "low": middle - 1, "high": middle + 1})
    thinned = thin(frame)
    assert len(thinned) <= MAX_POINTS
    assert {0, 7777, 12_345, 19_999} <= set(thinned["step"])
    assert thinned["high"].max() == 51
    assert thinned["low"].min() == -51
    assert (thinned["low"] <= thinned["middle"]).all()
    assert thinned["step"].is_monotonic_increasing
    assert thin(frame.head(10)).equals(frame.head(10))


def test_many_arms_are_spread_evenly_and_said_to_be(tmp_path):
    for number in range(20):
        write_run(tmp_path / f"{number}-x", config_of(noise=10.0**-number), 20)
    table = load_runs([tmp_path])
    styles = arm_styles(table)
    assert len(styles) == MAX_ARMS
    assert next(iter(styles)) == table.arms[0]
    assert list(styles)[-1] == table.arms[-1]
    assert len({(style.color, style.dash) for style in styles.values()}) == MAX_ARMS
    figure = training.loss(table)
    assert figure is not None
    assert "12 of 20 arms" in figure.caption


def test_bands_take_the_median_where_asked(sweep_table):
    frame = bands(sweep_table, "symmetry/max_feature_asymmetry", "median")["He init"]
    assert (frame["low"] <= frame["middle"]).all()
    assert (frame["middle"] <= frame["high"]).all()
    assert (frame["seeds"] == 2).all()


def test_log_ticks():
    assert log_ticks(1e-3, 1.0) == ([1e-3, 1e-2, 1e-1, 1.0], [f"10<sup>{p}</sup>" for p in (-3, -2, -1)] + ["1"])
    positions, labels = log_ticks(1e-20, 1.0, 1e-21)
    assert labels[0] == "exactly 0"
    assert positions[0] == 1e-21
    assert len(positions) <= 10


def test_labels_are_shown_literally():
    assert plain("<b>a</b> & 'b'\n\tc") == "&lt;b&gt;a&lt;/b&gt; &amp; 'b' c"
    assert len(plain("x" * 10_000)) == 64
    assert plain("adapter_rank=8, adapter_rows=identical, precision=bf16-true", 30) == "adapter_rank=8,…sion=bf16-true"
    assert plain("") == "(no name)"
