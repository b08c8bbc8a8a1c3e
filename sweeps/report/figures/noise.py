"""The equivalent-noise figure: every source of symmetry breaking on the scale of initial noise."""

import math

import numpy as np
import plotly.graph_objects as go

from symbreak.sweeps.report.arms import readable
from symbreak.sweeps.report.equivalent_noise import Curve, Equivalent, NoiseLaw, noise_laws
from symbreak.sweeps.report.figures.style import INK, PALETTE, Figure, add_shade, blank, log_ticks, plain
from symbreak.sweeps.report.table import RunTable

_SYMBOLS = ("diamond", "square", "triangle-up", "cross", "star", "triangle-down", "pentagon", "hexagon")


def equivalent_noise(table: RunTable) -> list[Figure]:
    """Draw escape step against initial noise scale with all other sources placed on it; one figure per setting."""
    laws = noise_laws(table)
    return [_figure(law, i, len(laws)) for i, law in enumerate(laws)]


def _figure(law: NoiseLaw, index: int, count: int) -> Figure:
    plot = blank("initial noise scale (relative to He)", "escape step", height=440)
    _add_curve(plot, law.curve)
    for i, source in enumerate(law.sources):
        if source.escaped:
            _add_source(plot, source, i, law.curve)
    low, high = float(law.curve.scales[0]), float(law.curve.scales[-1])
    ticks, labels = log_ticks(low, high)
    margin = 0.06 * math.log10(high / low) + 0.1
    plot.update_xaxes(type="log", tickmode="array", tickvals=ticks, ticktext=labels, showgrid=True)
    plot.update_xaxes(range=[math.log10(low) - margin, math.log10(high) + margin])
    plot.update_yaxes(rangemode="tozero")
    sources = "; ".join(f"{source.label}: {source.text}" for source in law.sources)
    caption = (
        "Line: networks with nothing but initial noise, their median escape step per scale, made monotone; shade: "
        "lowest to highest seed. Every other source stands where its median escape step meets the line: read its "
        "equivalent noise below it. Interval: all scales whose seeds escape within the range of the source's own "
        "seeds, spacing of the measurements included. Triangle to the left: an upper bound, since the source escapes "
        "later than the smallest scale, or half of its seeds or more have not escaped yet. A run that has not escaped "
        f"counts as escaping later than its last measured step.{_left_out(law.curve)} {sources}."
    )
    title = "Equivalent noise" + (f": {law.setting}" if count > 1 else "")
    return Figure(
        f"equivalent-noise-{index}" if count > 1 else "equivalent-noise", "Symmetry", title, caption, plot, True
    )


def _left_out(curve: Curve) -> str:
    """Return a sentence about the noise scales that the line leaves out."""
    if not curve.left_out:
        return ""
    scales = ", ".join(f"{readable(scale)} (step {step})" for scale, step in curve.left_out.items())
    return f" Not on the line, because half of their runs or more had not escaped by their last step: {scales}."


def _add_curve(plot: go.Figure, curve: Curve) -> None:
    scales = curve.scales
    late = np.where(np.isfinite(curve.late), curve.late, curve.middle)
    add_shade(plot, scales, curve.early, late, INK, 0.12, line_width=0, showlegend=False)
    plot.add_scatter(
        x=scales,
        y=curve.middle,
        mode="lines+markers",
        line={"color": INK, "width": 2},
        marker={"size": 7},
        name="initial noise",
        customdata=curve.seeds,
        hovertemplate="noise %{x:.1e}: step %{y:.0f} (%{customdata:.0f} runs)<extra>initial noise</extra>",
    )


def _add_source(plot: go.Figure, source: Equivalent, index: int, curve: Curve) -> None:
    low, high = float(curve.scales[0]), float(curve.scales[-1])
    x = min(max(source.scale or source.high, low), high)
    y = source.step if source.open_at is None else source.open_at
    color = PALETTE[index % (len(PALETTE) - 1)]
    bar = {"type": "data", "symmetric": False, "color": color, "thickness": 2, "width": 6}
    ends = {"array": [max(0.0, min(source.high, high) - x)], "arrayminus": [max(0.0, x - max(source.low, low))]}
    symbol = _SYMBOLS[index % len(_SYMBOLS)] if source.scale else "triangle-left"
    plot.add_scatter(
        x=[x],
        y=[y],
        error_x=bar | ends,
        mode="markers",
        marker={"size": 13, "symbol": symbol, "color": color, "line": {"width": 1, "color": INK}},
        name=f"{plain(source.label)}: {source.text}",
        legendgroup=f"source {index}",
        hovertemplate="<b>%{fullData.name}</b><br>escapes at step %{y:.0f}<extra></extra>",
    )
