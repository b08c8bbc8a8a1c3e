"""Copies of units: how far apart they are by step, and when they separate."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from symbreak.sweeps.report.figures.layers import short_layers
from symbreak.sweeps.report.figures.style import (
    BAND,
    PALETTE,
    Figure,
    add_band,
    arm_styles,
    bands,
    blank,
    floor_axis,
    left_out,
    plain,
)
from symbreak.sweeps.report.figures.symmetry import raise_to, zero_floor
from symbreak.sweeps.report.figures.training import split_name
from symbreak.sweeps.report.growth import median_step
from symbreak.sweeps.report.table import RunTable

SECTION = "Copies"
ASYMMETRY, DISTINCT, STEPS = "clones/asymmetry", "clones/distinct_members", "clones/steps_to_separation"
LEARNING = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
MAX_LAYERS = 4
_Frames = dict[str, pd.DataFrame]


def separation(table: RunTable) -> Figure | None:
    """Draw asymmetry and number of distinct members of copies by step, a column per layer, above the loss."""
    found = [layer for layer in table.layers(ASYMMETRY) if table.has(f"{ASYMMETRY}/{layer}")]
    if not found:
        return None
    layers = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(len(found), MAX_LAYERS)).astype(int))]
    learning = next((key for key in LEARNING if table.has(key)), None)
    plot = _grid(layers, learning)
    _draw_asymmetry(plot, table, layers)
    for column, layer in enumerate(layers, start=1):
        _draw(plot, table, bands(table, f"{DISTINCT}/{layer}", "median"), 2, column)
    if learning:
        _draw(plot, table, bands(table, learning), 3, 1)
    shown: set[str] = set()
    traces: Any = plot.data
    for trace in traces:  # one legend entry per arm
        trace.showlegend = trace.showlegend is not False and trace.legendgroup not in shown
        shown |= {trace.legendgroup} if trace.showlegend else set()
    some = f" {MAX_LAYERS} of {len(found)} layers are shown." if len(found) > MAX_LAYERS else ""
    caption = (
        "Groups of units that started as copies, by layer. Top: rms distance of a group's members from their mean, "
        "relative to their size; the dotted floor is exactly 0: all members carry the same bits. Middle: number of "
        "members whose incoming weights differ in a bit, summed over the groups of the layer. Arms that coincide cover "
        f"each other. {f'Bottom: {_words(learning)}. ' if learning else ''}{BAND}{some}{left_out(table)}"
    )
    return Figure("clone-separation", SECTION, "Separation of copies", caption, plot, wide=True)


def _words(learning: str) -> str:
    split, measure = learning.split("/")
    return f"{split_name(split)} {measure}" + (" (nats)" if measure == "loss" else "")


def _grid(layers: list[str], learning: str | None) -> go.Figure:
    count = len(layers)
    titles = [f"<b>{plain(name)}</b>" for name in short_layers(layers, 32)]
    plot = make_subplots(
        rows=3 if learning else 2,
        cols=count,
        specs=[[{}] * count] * 2 + ([[{"colspan": count}] + [None] * (count - 1)] if learning else []),
        row_heights=[0.42, 0.24, 0.34] if learning else [0.6, 0.4],
        vertical_spacing=0.09,
        horizontal_spacing=0.05,
        subplot_titles=titles,
    )
    plot.update_layout(blank("", "", height=760 if learning else 540).layout)
    plot.update_layout(template="none", margin={"t": 40}, legend={"y": -0.1})
    plot.update_xaxes(showline=True, ticks="outside", zeroline=False, automargin=True)
    plot.update_yaxes(showline=True, ticks="outside", zeroline=False, automargin=True, showgrid=True)
    plot.update_annotations(font={"size": 13})
    plot.update_xaxes(title={"text": "optimiser step", "standoff": 6, "font": {"size": 13}}, row=3 if learning else 2)
    names = {1: "asymmetry (relative)", 2: "distinct members"} | ({3: _words(learning)} if learning else {})
    for row, name in names.items():
        plot.update_yaxes(title={"text": name, "standoff": 6, "font": {"size": 13}}, row=row, col=1)
    return plot


def _draw_asymmetry(plot: go.Figure, table: RunTable, layers: list[str]) -> None:
    by_layer = [bands(table, f"{ASYMMETRY}/{layer}", "median") for layer in layers]
    everything = {f"{index} {arm}": frame for index, frames in enumerate(by_layer) for arm, frame in frames.items()}
    floor, low = zero_floor(everything)
    top = max(1.0, max(frame["high"].max() for frame in everything.values()))
    for column, frames in enumerate(by_layer, start=1):
        raised = {arm: raise_to(floor, frame) for arm, frame in frames.items()}
        _draw(plot, table, raised, 1, column)
        place: dict[str, Any] = {"row": 1, "col": column}
        floor_axis(plot, floor, low, top, **place)
        limits = [math.log10(floor) - 0.5, math.log10(top) + 0.3]
        plot.update_yaxes(range=limits, showticklabels=column == 1, **place)


def _draw(plot: go.Figure, table: RunTable, frames: _Frames, row: int, column: int) -> None:
    """Draw a line per arm into one panel."""
    styles = arm_styles(table)
    panel = go.Figure()
    for arm, frame in frames.items():
        add_band(panel, styles[arm], frame)
    for trace in panel.data:
        plot.add_trace(trace, row=row, col=column)


def separated(table: RunTable) -> tuple[pd.Series, pd.Series]:
    """Return, per run with copies, the steps to their first difference, NaN without one, and the steps measured."""
    measured = table.series(ASYMMETRY).groupby("run")["step"].agg(["min", "max"])
    events = table.series(STEPS).groupby("run")["value"].min() if table.has(STEPS) else pd.Series(dtype="float64")
    return events.reindex(measured.index), measured["max"] - measured["min"]


def steps_to_separation(table: RunTable) -> Figure | None:
    """Draw per arm the steps from the start as copies to the first difference, or the steps without one."""
    if not table.has(ASYMMETRY):
        return None
    steps, last = separated(table)
    arms = table.runs["arm"][last.index]
    names = {arm: plain(arm) for arm in dict.fromkeys(reversed(list(arms)))}
    plot = blank("steps since the units were copies", "", height=max(260, 110 + 30 * len(names)))
    for position, (arm, name) in enumerate(names.items()):
        own = arms.index[arms == arm]
        step, is_known = median_step(steps[own].to_numpy(), last[own].to_numpy())
        _mark(plot, name, position, step, is_known, "left" if step > 0.5 * last.max() else "right")
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": list(names.values())}
    plot.update_yaxes(**ticks, range=[-0.6, len(names) - 0.4], showgrid=True, showline=False, ticks="")
    plot.update_xaxes(range=[-0.03 * last.max(), 1.03 * last.max()])
    caption = (
        "● steps from the first measurement of the copies to the first one at which members of a group differ in a "
        "bit, in any layer; 0 where they differed from the start. ▷ no copy had separated by the last step. Medians "
        "over seeds."
    )
    return Figure("steps-to-separation", SECTION, "Steps to separation", caption, plot, wide=True)


def _mark(plot: go.Figure, name: str, position: int, steps: float, is_known: bool, side: str) -> None:
    text = f"{steps:.0f}" if is_known else f"not in {steps:.0f}"
    plot.add_scatter(
        x=[steps],
        y=[position],
        mode="markers+text",
        text=[text],
        textposition=f"middle {side}",
        marker={"symbol": "circle" if is_known else "triangle-right-open", "size": 11, "color": PALETTE[0]},
        name=name,
        showlegend=False,
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{text} steps<extra></extra>",
    )
