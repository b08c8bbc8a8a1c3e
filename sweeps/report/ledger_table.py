"""The noise ledger as a table and as sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from symbreak.sweeps.report.arms import readable
from symbreak.sweeps.report.bootstrap import LEAST, Interval
from symbreak.sweeps.report.grids import UNKNOWN, Cell, Grid, number, text
from symbreak.sweeps.report.ledger import Entry, Ledger, Pairing
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
NAMED = 3
"""Maximum number of sources that a sentence names."""
PAIRS = ("one source", "another", "spreads that differ (points)", "churns that differ (%)")
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


def pairs_grid(ledger: Ledger | None) -> Grid:
    """Return a row per pair of sources that differ significantly, with the values that do."""
    if ledger is None or not (ledger.spreads or ledger.churns):
        return Grid([], [])
    entries = {entry.source: entry for entry in ledger.entries}
    return Grid(
        list(PAIRS),
        [
            [
                text(a),
                text(b),
                _both(100 * (entries[a].spread or 0.0), 100 * (entries[b].spread or 0.0), (a, b) in ledger.spreads),
                _both(100 * (entries[a].churn or 0.0), 100 * (entries[b].churn or 0.0), (a, b) in ledger.churns),
            ]
            for a, b in dict.fromkeys([*ledger.spreads, *ledger.churns])
        ],
    )


def _both(one: float, other: float, differ: bool) -> Cell:
    return Cell(f"{one:.2f} and {other:.2f}", abs(one - other)) if differ else UNMEASURED


def ledger_sentences(ledger: Ledger | None) -> list[Sentence]:
    """Return sentences: sizes of the effects, sources that differ significantly, and sources with too few runs."""
    if ledger is None:
        return []
    judged = [entry for entry in ledger.entries if entry.source not in ledger.too_few]
    found = _effects([entry for entry in judged if entry.separation != math.inf])
    if len(judged) > 1:
        found += [
            Sentence("Spread of the accuracy", _differing(ledger.spreads, judged)),
            Sentence("Churn", _differing(ledger.churns, judged)),
        ]
    if ledger.too_few:
        found.append(Sentence("Too few runs", f"for a claim (fewer than {LEAST}): {'; '.join(ledger.too_few)}."))
    return found


def _effects(entries: Sequence[Entry]) -> list[Sentence]:
    """Say how far the sources whose runs separate are apart in their effect."""
    parts = []
    for name, unit, values in (
        ("spread of the accuracy", " points", {e.source: 100 * e.spread for e in entries if e.spread}),
        ("churn", " %", {e.source: 100 * e.churn for e in entries if e.churn}),
    ):
        if len(values) > 1:
            least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
            parts.append(
                f"{name} from {values[least]:.2f}{unit} ({least}) to {values[most]:.2f}{unit} ({most}), "
                f"a factor of {values[most] / values[least]:.1f}"
            )
    return [Sentence("Effect of a source", f"{'; '.join(parts)}.")] if parts else []


def _differing(pairs: Sequence[Pairing], judged: Sequence[Entry]) -> str:
    """Say how many pairs of sources differ, and which sources differ from most others."""
    comparisons = len(judged) * (len(judged) - 1) // 2
    test = "95 % bootstrap over runs, Bonferroni-corrected"
    if not pairs:
        return f"differs significantly in none of {comparisons} pairs of sources ({test})."
    counts = Counter(name for pair in pairs for name in pair).most_common()
    most = [f"{name} ({count})" for name, count in counts[:NAMED]]
    which = f"{'most of them with ' if len(counts) > NAMED else ''}{', '.join(most)}"
    return f"differs significantly in {len(pairs)} of {comparisons} pairs of sources: {which} ({test})."
