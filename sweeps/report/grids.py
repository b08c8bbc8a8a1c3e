"""The report's two tables as plain data: one row per arm, one row per run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import short_names
from symbreak.sweeps.report.growth import median_step
from symbreak.sweeps.report.table import RunTable, final_accuracy_key, split_name
from symbreak.sweeps.run.outcome import common_cause

MAX_PARAMETERS = 12
UNKNOWN = "\N{EN DASH}"
EVENTS = {"broken step": "broken_step", "escape step": "escape_step", "diverged step": "diverged_step"}
"""Columns of steps, by the name of the event in `Outcome`."""
ROUNDING = 1e-12
"""Relative standard deviation up to which values count as equal."""
NEVER = 1e300
"""Sort key of an event that did not occur, after all that did."""


@dataclass(frozen=True)
class Cell:
    """Displayed content and sort value."""

    text: str
    value: float | str

    @property
    def sort_key(self) -> str:
        """Return the value as the page's script compares it, empty if unknown."""
        return "" if self.value in (math.inf, "") else str(self.value)[:200]


@dataclass(frozen=True)
class Grid:
    """Column titles and rows of cells."""

    columns: list[str]
    rows: list[list[Cell]]

    @property
    def number_columns(self) -> list[bool]:
        """Return for each column whether any of its cells is a number."""
        return [any(not isinstance(row[i].value, str) for row in self.rows) for i in range(len(self.columns))]


def by_arm(table: RunTable) -> Grid:
    """Return arms with their number of runs and mean outcomes over seeds."""
    facts = _outcomes(table)
    outcomes = list(map(str, facts.columns))
    traced = _traced(table)
    columns = ["arm", "runs", *outcomes, *traced]
    arms = table.runs["arm"]
    rows = []
    for arm in table.arms:
        own = facts[arms == arm]
        cells = [_median(table, own.index, name) if name in EVENTS else _mean(own[name], name) for name in outcomes]
        causes = [text(common_cause(table.outcomes[run] for run in own.index) or UNKNOWN) for _ in traced]
        rows.append([text(arm), number(len(own), "d"), *cells, *causes])
    return Grid(columns, rows)


def by_run(table: RunTable) -> Grid:
    """Return runs with their status, the parameters in which arms differ, and their outcomes."""
    facts = _outcomes(table)
    outcomes = list(map(str, facts.columns))
    parameters = table.varying[:MAX_PARAMETERS]
    names = short_names(parameters)
    traced = _traced(table)
    columns = ["run", "arm", "status", *outcomes, *traced, "seed", "steps", *(names[key] for key in parameters)]
    rows = []
    for run, config in enumerate(table.configs):
        cells = [text(table.runs[name][run]) for name in ("run", "arm", "status")]
        cells += [
            _event(table, run, name) if name in EVENTS else _cell(float(facts[name][run]), name) for name in outcomes
        ]
        cells += [value(table.outcomes[run].cause) for _ in traced]
        cells += [value(config.get("seed_everything")), value(table.runs["step"][run])]
        rows.append(cells + [value(config.get(key)) for key in parameters])
    return Grid(columns, rows)


def _outcomes(table: RunTable) -> pd.DataFrame:
    """Return numeric outcomes per run, without columns that no run has."""
    key = final_accuracy_key(table)
    facts = {f"{split_name(key)} accuracy": table.final(key)} if key else {}
    facts["training loss"] = table.final("train/loss")
    means = [np.mean(list(o.distinct_filters.values())) if o.distinct_filters else math.nan for o in table.outcomes]
    facts["distinct filters per hidden layer"] = pd.Series(means, table.runs.index, dtype="float64")
    facts |= {name: table.event(event) for name, event in EVENTS.items()}
    facts["growth per step"] = table.event("growth_rate")
    frame = pd.DataFrame(facts, index=table.runs.index)
    measured = {"broken step", "escape step"} if any(outcome.measured for outcome in table.outcomes) else set()
    return frame[[name for name in frame if name in measured or frame[name].notna().any()]]


def _traced(table: RunTable) -> list[str]:
    """Return the column of causes, if a trace found one in any run."""
    return ["cause"] if any(outcome.cause for outcome in table.outcomes) else []


def text(content: Any) -> Cell:
    """Return a text cell."""
    return Cell(str(content), str(content).casefold())


def number(amount: float, fmt: str) -> Cell:
    """Return a numeric cell; unknown numbers sort last."""
    return Cell(UNKNOWN, math.inf) if math.isnan(amount) else Cell(format(amount, fmt), amount)


def value(content: Any) -> Cell:
    """Return a cell of a configuration value."""
    if isinstance(content, (int, float, np.number)) and not isinstance(content, bool):
        return number(float(content), ".10g")
    return Cell(UNKNOWN, "") if content is None else text(content)


def _cell(amount: float, name: str) -> Cell:
    if name.endswith("accuracy"):
        return number(amount, ".2%")
    return number(amount, ".0f" if name in EVENTS else ".4g")


def _event(table: RunTable, run: int, name: str) -> Cell:
    """Return the step of a run's event, or the terminal's text if it did not occur."""
    outcome = table.outcomes[run]
    step = getattr(outcome, EVENTS[name])
    if step is not None:
        return number(float(step), ".0f")
    words = outcome.cells().get(name, "-")
    return Cell(UNKNOWN, math.inf) if words == "-" else Cell(words, NEVER)


def _median(table: RunTable, runs: pd.Index, name: str) -> Cell:
    """Return the median step of an event over the runs of an arm, with its range; `not by` if it lies later."""
    steps = table.event(EVENTS[name])[runs]
    seen = [table.outcomes[run].measured for run in runs]
    if name == "diverged step" or not any(seen):
        return _mean(steps, name)
    step, is_known = median_step(steps[seen].to_numpy(), table.runs["step"][runs][seen].to_numpy(dtype=float))
    if is_known:
        spread = f" ({steps.min():.0f} to {steps.max():.0f})" if steps.nunique() > 1 else ""
        return Cell(f"{step:.0f}{spread}", step)
    is_over = steps.isna().all() and (table.runs["status"][runs] == "finished").all()
    return Cell("never" if is_over else f"not by {step:.0f}", NEVER)


def _mean(values: pd.Series, name: str) -> Cell:
    """Return mean ± standard deviation."""
    known = values.dropna()
    if known.empty:
        return _cell(math.nan, name)
    cell, spread = _cell(float(known.mean()), name), known.std()
    if len(known) < 2 or spread <= ROUNDING * abs(known.mean()):
        return cell
    return Cell(f"{cell.text} ± {_cell(float(spread), name).text}", cell.value)
