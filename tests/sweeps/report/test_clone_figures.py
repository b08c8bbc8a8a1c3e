from typing import Any

import pytest

from symbreak.sweeps.report.figures import choose, clones

LAYERS = ["blocks.0.feed_forward.0", "blocks.1.feed_forward.0"]


@pytest.fixture
def separation(copies_table) -> Any:
    figure = clones.separation(copies_table)
    assert figure is not None
    return figure


def panel(figure, row, column) -> dict[str, Any]:
    """Return the lines of a panel by the name of the arm."""
    axis = figure.plot.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
    return {trace.name: trace for trace in figure.plot.data if (trace.xaxis or "x") == axis and trace.fill is None}


def test_runs_with_copies_get_both_figures_and_others_none(copies_table, sweep_figures):
    keys = {"clone-separation", "steps-to-separation"}
    assert keys <= {figure.key for figure in choose(copies_table)}
    assert not keys & {figure.key for figure in sweep_figures}


@pytest.mark.parametrize("column", [1, 2])
def test_lines_of_a_layer_equal_the_logged_values(copies_table, separation, column):
    lines, counts = panel(separation, 1, column), panel(separation, 2, column)
    assert set(lines) == set(counts) == set(copies_table.arms) == {"split=even", "split=uneven"}
    layer = LAYERS[column - 1]
    for arm in lines:
        for line, measure in ((lines[arm], "asymmetry"), (counts[arm], "distinct_members")):
            logged = copies_table.series(f"clones/{measure}/{layer}").query("arm == @arm")
            assert list(line.x) == list(logged["step"]) == list(range(4, 13))
            known = [(y, value) for y, value in zip(line.y, logged["value"], strict=True) if value]
            assert all(y == pytest.approx(value) for y, value in known)
    assert list(counts["split=even"].y) == [16] * 9
    assert list(counts["split=uneven"].y) == [16] + [32] * 8


def test_exact_zeros_stand_on_a_labelled_floor_below_every_other_value(separation):
    axis = separation.plot.layout.yaxis
    assert axis.ticktext[0] == "exactly 0"
    lines = panel(separation, 1, 1)
    assert set(lines["split=even"].y) == {axis.tickvals[0]}
    assert min(lines["split=uneven"].y[1:]) > 10 * axis.tickvals[0]


def test_the_loss_stands_below_and_every_arm_is_named_once(copies_table, separation):
    lines = panel(separation, 3, 1)
    logged = copies_table.series("train/loss").query("arm == 'split=even'")
    assert list(lines["split=even"].y) == pytest.approx(list(logged["value"]))
    named = [trace.name for trace in separation.plot.data if trace.showlegend]
    assert sorted(named) == sorted(copies_table.arms)


def test_steps_to_separation_names_arms_that_never_separated(copies_table):
    figure: Any = clones.steps_to_separation(copies_table)
    marks = {trace.name: trace for trace in figure.plot.data}
    assert (marks["split=uneven"].x[0], marks["split=uneven"].text[0]) == (1, "1")
    assert (marks["split=even"].x[0], marks["split=even"].text[0]) == (8, "not in 8")
    assert list(figure.plot.layout.yaxis.ticktext) == ["split=uneven", "split=even"]
