import math

from tests.sweeps.report.example_runs import ARMS

from symbreak.sweeps.report.grids import by_arm, by_run, number, value


def test_arms_have_mean_and_spread_over_seeds(sweep_table):
    grid = by_arm(sweep_table)
    assert grid.columns[:3] == ["arm", "runs", "test accuracy"]
    assert [row[0].text for row in grid.rows] == list(ARMS)
    escape = grid.columns.index("escape step")
    assert grid.rows[0][escape].text == "never"
    assert "±" in grid.rows[1][escape].text
    distinct = grid.columns.index("distinct filters per hidden layer")
    assert grid.rows[0][distinct].value == 1


def test_runs_have_outcomes_then_parameters(sweep_table):
    grid = by_run(sweep_table)
    assert len(grid.rows) == len(sweep_table.runs)
    assert grid.columns[-4:] == ["dropout", "init", "noise_scale", "ulps"]
    first = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert first["test accuracy"].text.endswith("%")
    assert first["broken step"].value == math.inf
    assert first["steps"].value == 600


def test_cells_sort_unknowns_apart():
    assert number(math.nan, ".2f").value == math.inf
    assert value(None).value == ""
    assert value(True).text == "True"
    assert value(1e-8).text == "1e-08"
    assert value("B").value == "b"
