"""The report's two tables as plain data: one row per arm, one row per run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import short_names
from symbreak.sweeps.report.figures.training import final_accuracy_key, split_name
from symbreak.sweeps.report.findings import DISTINCT
from symbreak.sweeps.report.growth import escapes
from symbreak.sweeps.report.table import RunTable

MAX_PARAMETERS = 12
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """What is shown, and the value it is sorted by."""

    text: str
    value: float | str

    @property
    def sort_key(self) -> str:
        """Return the value as the page's script compares it, empty for one that is unknown."""
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
    """Arms with their number of runs and mean outcomes over seeds."""
    facts = _outcomes(table)
    outcomes = list(map(str, facts.columns))
    columns = ["arm", "runs", *outcomes]
    arms = table.runs["arm"]
    rows = []
    for arm in table.arms:
        own = facts[arms == arm]
        rows.append([text(arm), number(len(own), "d"), *(_mean(own[name], name) for name in outcomes)])
    return Grid(columns, rows)


def by_run(table: RunTable) -> Grid:
    """Runs with their status, the parameters in which arms differ, and their outcomes."""
    facts = _outcomes(table)
    outcomes = list(map(str, facts.columns))
    parameters = table.varying[:MAX_PARAMETERS]
    names = short_names(parameters)
    columns = ["run", "arm", "status", *outcomes, "seed", "steps", *(names[key] for key in parameters)]
    rows = []
    for position, row in enumerate(table.records()):
        cells = [text(row["run"]), text(row["arm"]), text(row["status"])]
        cells += [_outcome(facts[name].iloc[position], name) for name in outcomes]
        rows.append(cells + [value(row.get(key)) for key in ("seed", "step", *parameters)])
    return Grid(columns, rows)


def _outcomes(table: RunTable) -> pd.DataFrame:
    """Numeric outcomes per run; columns that no run has are left out."""
    key = final_accuracy_key(table)
    facts = {f"{split_name(key)} accuracy": table.outcome(key)} if key else {}
    facts["training loss"] = table.outcome("train/loss")
    keys = [f"{DISTINCT}/{layer}" for layer in table.hidden_layers(DISTINCT)]
    if keys:
        facts["distinct filters per hidden layer"] = table.runs[keys].apply(pd.to_numeric, errors="coerce").mean(axis=1)
    facts["broken step"] = table.outcome("symmetry/broken_step")
    facts["escape step"] = escapes(table)["escape"]
    facts["growth per step"] = table.outcome("symmetry/growth_rate")
    return pd.DataFrame(facts, index=table.runs.index).dropna(axis=1, how="all")


def text(content: Any) -> Cell:
    """A cell of words."""
    return Cell(str(content), str(content).casefold())


def number(amount: float, fmt: str) -> Cell:
    """A cell of a number; unknown ones sort last."""
    return Cell(UNKNOWN, math.inf) if math.isnan(amount) else Cell(format(amount, fmt), amount)


def value(content: Any) -> Cell:
    """A cell of whatever a configuration holds."""
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return number(float(content), ".10g")
    return Cell(UNKNOWN, "") if content is None else text(content)


def _outcome(amount: float, name: str) -> Cell:
    if math.isinf(amount):
        return Cell("never", 1e300)
    if name.endswith("accuracy"):
        return number(amount, ".2%")
    return number(amount, ".0f" if name.endswith("step") and "per" not in name else ".4g")


def _mean(values: pd.Series, name: str) -> Cell:
    """Mean ± standard deviation; for escape steps the median, since some seeds may never escape."""
    known = values.dropna()
    if known.empty:
        return _outcome(math.nan, name)
    if np.isinf(known).any():
        return _outcome(float(known.median()), name)
    cell = _outcome(float(known.mean()), name)
    spread = known.std()
    if len(known) < 2 or not spread:
        return cell
    return Cell(f"{cell.text} ± {_outcome(float(spread), name).text}", cell.value)
