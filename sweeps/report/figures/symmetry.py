"""The growth of asymmetry, from exactly 0 or from noise, until features differ."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from symbreak.sweeps.report.figures.style import (
    INK,
    ArmStyle,
    Figure,
    add_band,
    arm_styles,
    bands,
    blank,
    floor_axis,
    floor_below,
    left_out,
)
from symbreak.sweeps.report.growth import ASYMMETRY, escapes, growth_fit, median_step, thresholds
from symbreak.sweeps.report.table import RunTable

SECTION = "Symmetry"


def growth(table: RunTable) -> Figure | None:
    """Draw feature asymmetry against the step on a logarithmic axis with a separate line for 0."""
    if not table.has(ASYMMETRY):
        return None
    frames, styles = bands(table, ASYMMETRY, "median"), arm_styles(table)
    levels = thresholds(table)
    floor, low = zero_floor(frames)
    plot = blank("optimiser step", "feature asymmetry (relative)", height=460)
    for arm, frame in frames.items():
        _add_arm(plot, styles[arm], frame, floor)
        _add_fit(plot, styles[arm], table, arm)
        _add_events(plot, styles[arm], frame, _events(table, arm), floor)
    floor_axis(plot, floor, low, 1.0)
    top = max(frame["high"].max() for frame in frames.values())
    plot.update_yaxes(range=[math.log10(floor) - 0.3, math.log10(max(top, 1.0)) + 0.35])
    for level in levels:
        plot.add_hline(y=level, line={"color": INK, "width": 1, "dash": "dash"}, opacity=0.6)
    caption = (
        "How far the channels of the least symmetric hidden layer are from their mean, relative to their size. "
        "A straight rise is exponential growth; the thin dotted lines are its fit up to 10⁻². The dotted floor is "
        "exactly 0: all channels carry the same bits. ◇ first step at which some layer's filters differ in a bit, "
        f"★ escape: asymmetry at or above {' or '.join(f'{level:g}' for level in levels)} (dashed), by the run's own "
        "threshold. ✕ a measure is no longer finite: the run diverged. Events are medians over seeds, and not drawn "
        "where half of the seeds or more have not got there. Line: median over seeds. "
        f"Band: lowest to highest seed.{left_out(table)}"
    )
    return Figure("growth", SECTION, "From identical to different", caption, plot, wide=True)


def zero_floor(frames: dict[str, pd.DataFrame]) -> tuple[float, float]:
    """Return where exact zeros are drawn (well below every positive value), and the lowest power of ten above it."""
    positive = [frame.loc[frame["low"] > 0, "low"].min() for frame in frames.values()]
    lowest = min((value for value in positive if value > 0), default=1e-8)
    return floor_below(max(lowest, 1e-30))


def raise_to(floor: float, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a band with its exact zeros at the floor."""
    return frame.assign(**{name: frame[name].clip(lower=floor) for name in ("middle", "low", "high")})


def _add_arm(plot: go.Figure, style: ArmStyle, frame: pd.DataFrame, floor: float) -> None:
    add_band(plot, style, raise_to(floor, frame), "%{customdata:.3g}")
    plot.data[-1].update(customdata=frame["middle"].to_numpy(), mode="lines")


def _add_fit(plot: go.Figure, style: ArmStyle, table: RunTable, arm: str) -> None:
    frame = table.series(ASYMMETRY)
    median = frame[frame["arm"] == arm].groupby("step")["value"].median()
    fit = growth_fit(median.index.to_numpy(), median.to_numpy())
    if fit is None or fit.rate <= 0:
        return
    steps, values = fit.line()
    text = f"growth {fit.rate:.3g} per step (tenfold in {math.log(10) / fit.rate:.0f} steps), R² {fit.r2:.3f}"
    plot.add_scatter(
        x=steps,
        y=values,
        mode="lines",
        line={"color": INK, "width": 1.5, "dash": "dot"},
        name=style.name,
        legendgroup=style.group,
        showlegend=False,
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{text}<extra></extra>",
    )


def _events(table: RunTable, arm: str) -> dict[str, float]:
    """Return the median step of each event of an arm, without events after the last measured step."""
    own = escapes(table)[table.runs["arm"] == arm].dropna(subset="last")
    found = {}
    for name in ("broken_step", "escape_step", "diverged_step"):
        step, is_known = median_step(table.event(name)[own.index].to_numpy(), own["last"].to_numpy())
        found |= {name: step} if is_known else {}
    return found


def _add_events(plot: go.Figure, style: ArmStyle, frame: pd.DataFrame, events: dict[str, float], floor: float) -> None:
    """Mark the events of an arm on its line; features that differed from the start have no escape."""
    marks = {
        "broken_step": ("diamond-open", "filters differ from"),
        "escape_step": ("star", "escapes at"),
        "diverged_step": ("x", "diverged at"),
    }
    for name, step in events.items():
        symbol, word = marks[name]
        if name == "escape_step" and step == 0:
            continue
        y = max(floor, float(np.interp(step, frame["step"], frame["middle"])))
        plot.add_scatter(
            x=[step],
            y=[y],
            mode="markers",
            marker={"symbol": symbol, "size": 12, "color": style.color, "line": {"width": 2, "color": style.color}},
            name=style.name,
            legendgroup=style.group,
            showlegend=False,
            hovertemplate=f"<b>%{{fullData.name}}</b><br>{word} step {step:g}<extra></extra>",
        )
