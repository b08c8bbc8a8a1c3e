"""Figures of the noise ledger: the effect of each source on the result, and how its difference grows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from symbreak.sweeps.report.bootstrap import Interval
from symbreak.sweeps.report.figures.style import DASHES, INK, PALETTE, Figure, blank, floor_axis, floor_below, plain
from symbreak.sweeps.report.ledger import Entry, ledger
from symbreak.sweeps.report.table import RunTable

SECTION = "Noise ledger: figures"
ROW = 34
"""Height of a source's row in pixels."""
START = 0.5
"""Where step 0 lies on the logarithmic axis."""


def effects(table: RunTable) -> Figure | None:
    """Draw the spread of the accuracy and the churn of each source with their bootstrap intervals."""
    book = ledger(table)
    if book is None:
        return None
    entries = book.entries[::-1]
    height = 130 + ROW * len(entries)
    plot = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04, figure=blank("", "", height))
    _add_effect(plot, 1, entries, lambda e: e.spread, lambda e: e.spread_interval)
    _add_effect(plot, 2, entries, lambda e: e.churn, lambda e: e.churn_interval)
    axis = {"showgrid": True, "zeroline": False, "rangemode": "tozero", "showline": True, "ticks": "outside"}
    plot.update_xaxes(axis)
    for column, title in enumerate(("standard deviation of the accuracy (points)", "churn (% of test images)"), 1):
        plot.update_xaxes(title={"text": title, "font": {"size": 13}, "standoff": 10}, col=column)
    plot.update_yaxes(showgrid=True, automargin=True)
    plot.update_layout(showlegend=False)
    caption = (
        "One row per source of randomness: what it names varies over the seeds, every other source is fixed. Left: "
        "standard deviation of the final accuracy. Right: mean share of test images that two runs predict "
        "differently. Bars: 95 % bootstrap intervals over runs, from five runs on."
    )
    return Figure("ledger-effects", SECTION, "Effect of each source on the result", caption, plot, wide=True)


def _add_effect(
    plot: go.Figure,
    column: int,
    entries: list[Entry],
    value: Callable[[Entry], float | None],
    interval: Callable[[Entry], Interval | None],
) -> None:
    known = [entry for entry in entries if value(entry) is not None]
    middle = np.array([100 * (value(entry) or 0.0) for entry in known])
    ends = np.array([interval(entry) or (math.nan, math.nan) for entry in known]).reshape(-1, 2) * 100
    plot.add_scatter(
        x=middle,
        y=[plain(entry.source, 60) for entry in known],
        mode="markers",
        marker={"size": 10, "color": PALETTE[column - 1], "line": {"width": 1, "color": INK}},
        error_x={"type": "data", "array": ends[:, 1] - middle, "arrayminus": middle - ends[:, 0], "thickness": 2},
        customdata=[entry.runs for entry in known],
        hovertemplate="<b>%{y}</b><br>%{x:.3g} (%{customdata} runs)<extra></extra>",
        row=1,
        col=column,
    )


def growth(table: RunTable) -> Figure | None:
    """Draw the median distance of two runs' weights against the step, one line per source, 0 on a floor."""
    book = ledger(table)
    entries = [entry for entry in book.entries if entry.distances] if book else []
    positive = [distance for entry in entries for distance in entry.distances.values() if distance > 0]
    if not positive:
        return None
    floor, low = floor_below(min(positive))
    last = max(max(entry.distances) for entry in entries)
    plot = blank("optimiser step (logarithmic)", "relative distance of the weights", height=560)
    for i, entry in enumerate(entries):
        _add_growth(plot, entry, i, floor)
    floor_axis(plot, floor, low, max(*positive, 1.0))
    powers = [10**power for power in range(len(str(last)))]
    plot.update_xaxes(type="log", tickvals=[START, *powers], ticktext=["0", *map(str, powers)], showgrid=True)
    plot.add_hline(y=1e-2, line={"color": INK, "width": 1, "dash": "dash"}, opacity=0.6)
    caption = (
        "Median over pairs of runs of the distance between their weights, relative to the weights' norm, at the steps "
        "of the snapshots. A straight rise is exponential growth. The dotted floor is exactly 0: equal bits. Dashed: "
        "1 %, the level of the separation step."
    )
    return Figure("ledger-growth", SECTION, "Growth of the difference between two runs", caption, plot, wide=True)


def _add_growth(plot: go.Figure, entry: Entry, index: int, floor: float) -> None:
    steps, distances = list(entry.distances), np.array(list(entry.distances.values()))
    plot.add_scatter(
        x=np.maximum(steps, START),
        y=np.maximum(distances, floor),
        customdata=np.column_stack([steps, distances]),
        mode="lines+markers",
        line={"color": PALETTE[index % len(PALETTE)], "dash": DASHES[index // len(PALETTE) % len(DASHES)], "width": 2},
        marker={"size": 4},
        name=plain(entry.source, 60),
        hovertemplate="<b>%{fullData.name}</b><br>step %{customdata[0]:.0f}: %{customdata[1]:.3g}<extra></extra>",
    )
