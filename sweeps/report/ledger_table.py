"""The noise ledger as a table and as sentences."""

from __future__ import annotations

import math

from symbreak.sweeps.report.arms import readable
from symbreak.sweeps.report.bootstrap import LEAST, Interval
from symbreak.sweeps.report.grids import UNKNOWN, Cell, Grid, number, text
from symbreak.sweeps.report.ledger import Entry, Ledger
from symbreak.sweeps.report.sentences import Sentence

COLUMNS = (
    "what varies",
    "runs",
    "mean accuracy",
    "spread (points)",
    "churn",
    "distance",
    "growth rate",
    "R²",
    "separation step",
    "equivalent noise",
)
UNMEASURED = Cell(UNKNOWN, math.inf)


def ledger_grid(ledger: Ledger | None) -> Grid:
    """Return a row per source; an empty table without a ledger."""
    if ledger is None:
        return Grid([], [])
    return Grid(list(COLUMNS), [_row(entry, ledger) for entry in ledger.entries])


def _row(entry: Entry, ledger: Ledger) -> list[Cell]:
    mean = sum(entry.accuracies) / len(entry.accuracies) if entry.accuracies else math.nan
    growth = entry.growth
    return [
        text(entry.source),
        number(entry.runs, "d"),
        number(mean, ".2%"),
        _with_interval(entry.spread, entry.spread_interval, lambda x: f"{100 * x:.2f}"),
        _with_interval(entry.churn, entry.churn_interval, lambda x: f"{100 * x:.2f} %"),
        UNMEASURED if entry.distance is None else number(entry.distance, ".3g"),
        number(growth.rate if growth else math.nan, ".3g"),
        number(growth.r2 if growth else math.nan, ".3f"),
        _separation(entry.separation),
        _equivalent(entry, ledger),
    ]


def _with_interval(value: float | None, interval: Interval | None, show: object) -> Cell:
    assert callable(show)
    if value is None:
        return UNMEASURED
    low_high = f" ({show(interval[0])} to {show(interval[1])})" if interval else ""
    return Cell(f"{show(value)}{low_high}", value)


def _separation(step: float | None) -> Cell:
    if step is None:
        return UNMEASURED
    return Cell("never", 1e300) if math.isinf(step) else number(step, ".0f")


def _equivalent(entry: Entry, ledger: Ledger) -> Cell:
    scale = entry.noise if entry.noise is not None else entry.equivalent
    if scale is None or ledger.curve is None:
        return UNMEASURED
    if scale == 0:
        return Cell("none" if entry.separation == math.inf else f"below {readable(ledger.curve[0])}", 0.0)
    if math.isinf(scale):
        return Cell(f"above {readable(ledger.curve[1])}", 1e300)
    return Cell(readable(float(f"{scale:.1e}")), scale)


def ledger_sentences(ledger: Ledger | None) -> list[Sentence]:
    """Return sentences: sources whose spreads of accuracy differ significantly, and sources with too few runs."""
    if ledger is None:
        return []
    found = []
    judged = [entry for entry in ledger.entries if entry.source not in ledger.too_few]
    if len(judged) > 1:
        said = (
            f"differs between {'; '.join(ledger.different)}" if ledger.different else "differs between no two sources"
        )
        found.append(
            Sentence(
                "Spread of the accuracy",
                f"{said} (95 % bootstrap over runs, corrected for {len(judged) * (len(judged) - 1) // 2} comparisons).",
            )
        )
    if ledger.too_few:
        found.append(Sentence("Too few runs", f"for a claim (fewer than {LEAST}): {'; '.join(ledger.too_few)}."))
    return found
