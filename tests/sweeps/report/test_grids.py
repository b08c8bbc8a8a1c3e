import math

from tests.sweeps.report.example_runs import ARMS
from tests.sweeps.report.recorded import recorded

from symbreak.sweeps.report.grids import NEVER, UNKNOWN, Cell, by_arm, by_run, number, value


def test_arms_have_mean_and_spread_over_seeds(sweep_table):
    grid = by_arm(sweep_table)
    assert grid.columns[:3] == ["arm", "runs", "test accuracy"]
    assert [row[0].text for row in grid.rows] == list(ARMS)
    escape = grid.columns.index("escape step")
    assert grid.rows[0][escape].text == "never"
    assert grid.rows[1][escape].text == "305 (300 to 310)"
    assert "±" in grid.rows[1][2].text
    distinct = grid.columns.index("distinct filters per hidden layer")
    assert grid.rows[0][distinct].value == 1


def test_runs_have_outcomes_then_parameters(sweep_table):
    grid = by_run(sweep_table)
    assert len(grid.rows) == len(sweep_table.runs)
    assert grid.columns[-4:] == ["dropout", "init", "noise_scale", "ulps"]
    first = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert first["test accuracy"].text.endswith("%")
    assert first["broken step"] == Cell("never", NEVER)
    assert first["growth per step"].value == math.inf
    assert first["steps"].value == 600


def test_only_an_exponential_rise_has_a_growth_rate():
    table = recorded("lottery_ticket")  # one run an arm
    rate, r2 = table.runs["symmetry/growth_rate"], table.runs["symmetry/growth_rate_r2"]
    expected = [f"{each:.4g}" if share >= 0.9 else UNKNOWN for each, share in zip(rate, r2, strict=True)]
    assert (expected.count(UNKNOWN), rate.isna().sum()) == (6, 5)
    for grid in (by_arm(table), by_run(table)):
        assert [row[grid.columns.index("growth per step")].text for row in grid.rows] == expected


def test_cells_sort_unknowns_apart():
    assert number(math.nan, ".2f").value == math.inf
    assert value(None).value == ""
    assert value(True).text == "True"
    assert value(1e-8).text == "1e-08"
    assert value("B").value == "b"


def test_events_are_in_the_terminals_words(real_table):
    grid = by_run(real_table)
    cells = {row[0].text: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
    for (name, row), outcome in zip(cells.items(), real_table.outcomes, strict=True):
        for column in ("broken step", "escape step"):
            assert row[column].text == outcome.cells()[column], name
    assert cells["0-zero"]["escape step"].text == "never"
    assert cells["3-preempted"]["escape step"].text.startswith("not by ")
    assert cells["4-killed"]["status"].text == "killed"
    assert cells["0-zero"]["distinct filters per hidden layer"].text == "1"
    assert cells["8-ranks"]["devices"].text == "2"
    assert "diverged step" not in grid.columns
    assert "nan" not in {cell.text for row in grid.rows for cell in row}


def test_arms_have_the_median_step_of_their_runs(real_table):
    grid = by_arm(real_table)
    steps = {row[0].text: row[grid.columns.index("escape step")] for row in grid.rows}
    assert steps["noise_scale=0.01, threshold=0.1"].text == "49 (48 to 50)"
    assert steps["noise_scale=0.001, threshold=0.1"].text.startswith("not by ")
    assert steps["threshold=0.1"].text == "never"
