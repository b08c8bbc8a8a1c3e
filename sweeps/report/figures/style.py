"""Shared parts of the figures: the figure with its caption, colours, axes, bands over seeds and thinning."""

import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from symbreak.sweeps.report.table import RunTable

INK = "#1c2127"
"""Placeholder of the text colour, which the page replaces by the theme's."""
# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", INK)
DASHES = ("solid", "dash", "dot", "dashdot")
MAX_ARMS = 12
MAX_POINTS = 400
LABEL_LENGTH = 64
BAND = "Line: mean over seeds. Band: lowest to highest seed."
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A plot with its title and caption.

    Attributes:
        key: Stable name: anchor in the page, stem of the PNG.
        section: Heading it belongs under.
        title: What is shown.
        caption: How to read it.
        plot: The plotly figure, without colours of a theme.
        wide: Whether it takes the full width of the page.
    """

    key: str
    section: str
    title: str
    caption: str
    plot: go.Figure
    wide: bool = False

    @property
    def width(self) -> int:
        """Return the width of a picture in pixels."""
        return 1000 if self.wide else 720

    @property
    def height(self) -> int:
        """Return the height in pixels."""
        return int(self.plot.to_plotly_json()["layout"].get("height", 360))


@dataclass(frozen=True)
class ArmStyle:
    """How an arm looks in every figure."""

    name: str
    group: str
    color: str
    dash: str


def plain(text: object, length: int = LABEL_LENGTH) -> str:
    """Return a text that plotly shows literally: one line without markup, cut in its middle to a length.

    Both ends stay, because arms of a sweep often differ in the last of their settings alone.
    """
    line = " ".join(str(text).split()) or "(no name)"
    if len(line) > length:
        line = f"{line[: length // 2]}…{line[len(line) - (length - 1) // 2 :]}"
    return html.escape(line, quote=False)


def arm_styles(table: RunTable) -> dict[str, ArmStyle]:
    """Return colour and dash of each arm; at most `MAX_ARMS`, spread evenly over all of them."""
    arms = table.arms
    chosen = [arms[i] for i in np.unique(np.linspace(0, len(arms) - 1, min(len(arms), MAX_ARMS)).round().astype(int))]
    return {
        arm: ArmStyle(plain(arm), str(i), PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, arm in enumerate(chosen)
    }


def left_out(table: RunTable) -> str:
    """Return a sentence for the caption if there are more arms than a figure shows."""
    count = len(table.arms)
    return f" {MAX_ARMS} of {count} arms are shown, spread evenly over the sweep." if count > MAX_ARMS else ""


def bands(table: RunTable, key: str, middle: str = "mean") -> dict[str, pd.DataFrame]:
    """Return, per shown arm, middle over seeds, lowest and highest value and number of seeds at each step.

    Args:
        table: The runs.
        key: Logged key.
        middle: `mean`, or `median` where zeros and magnitudes mix.
    """
    if not table.has(key):
        return {}
    frame = table.series(key)
    grouped = frame.groupby(["arm", "step"], sort=True)["value"]
    stats = grouped.agg([middle, "min", "max", "size"]).set_axis(["middle", "low", "high", "seeds"], axis=1)
    present = set(frame["arm"])
    return {arm: thin(stats.loc[arm].reset_index()) for arm in arm_styles(table) if arm in present}


def thin(frame: pd.DataFrame, limit: int = MAX_POINTS) -> pd.DataFrame:
    """Return about `limit` rows at most, keeping extremes: the rows of lowest and highest middle of each bucket.

    Args:
        frame: Rows in order, with a column `middle`, and `low` and `high` around it.
        limit: Number of rows that a screen can show.
    """
    if len(frame) <= limit:
        return frame
    middle = frame["middle"].to_numpy()
    edges = np.linspace(0, len(frame), limit // 2 - 1).astype(int)[:-1]
    kept = {0, len(frame) - 1}
    for start, stop in zip(edges, np.append(edges[1:], len(frame)), strict=True):
        bucket = middle[start:stop]
        kept |= {start + int(np.argmin(bucket)), start + int(np.argmax(bucket))}
    rows = np.sort(np.fromiter(kept, dtype=int))
    bucket_of = np.searchsorted(edges, rows, side="right") - 1
    low = np.minimum.reduceat(frame["low"].to_numpy(), edges)[bucket_of]
    high = np.maximum.reduceat(frame["high"].to_numpy(), edges)[bucket_of]
    return frame.iloc[rows].assign(low=low, high=high)


def add_band(plot: go.Figure, style: ArmStyle, frame: pd.DataFrame, hover: str = "%{y:.4g}") -> None:
    """Draw an arm: its middle as a line, and a band from lowest to highest if there are several seeds."""
    steps = frame["step"].to_numpy()
    if frame["seeds"].max() > 1:
        options = {"line_width": 0, "showlegend": False, "legendgroup": style.group, "name": style.name}
        add_shade(plot, steps, frame["high"].to_numpy(), frame["low"].to_numpy(), style.color, 0.16, **options)
    plot.add_scatter(
        x=steps,
        y=frame["middle"].to_numpy(),
        mode="lines" if len(frame) > 30 else "lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={"size": 5},
        name=style.name,
        legendgroup=style.group,
        hovertemplate=f"<b>%{{fullData.name}}</b><br>step %{{x}}: {hover}<extra></extra>",
    )


def add_shade(
    plot: go.Figure, x: np.ndarray, first: np.ndarray, second: np.ndarray, color: str, opacity: float, **options: Any
) -> None:
    """Fill the area between two lines over the same abscissas; `options` are those of plotly's scatter."""
    plot.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([first, second[::-1]]),
        fill="toself",
        fillcolor=color,
        opacity=opacity,
        mode="lines",
        hoverinfo="skip",
        **options,
    )


def floor_below(lowest: float) -> tuple[float, float]:
    """Return where exact zeros are drawn, well below the lowest positive value, and the power of ten at or below it."""
    low = 10.0 ** math.floor(math.log10(lowest))
    return low / 30, low


def floor_axis(plot: go.Figure, floor: float, low: float, high: float, **panel: Any) -> None:
    """Make the vertical axis logarithmic, with ticks from `low` to `high` and a dotted line at the floor."""
    ticks, labels = log_ticks(low, high, floor)
    plot.update_yaxes(type="log", tickmode="array", tickvals=ticks, ticktext=labels, **panel)
    plot.add_hline(y=floor, line={"color": INK, "width": 1, "dash": "dot"}, opacity=0.45, **panel)


def blank(x: str, y: str, height: int = 360) -> go.Figure:
    """Return an empty figure with titled axes, in the project's style, without theme colours."""
    plot = go.Figure()
    axis = {"showline": True, "ticks": "outside", "ticklen": 4, "automargin": True, "zeroline": False}
    plot.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13},
        margin={"l": 12, "r": 16, "t": 16, "b": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        xaxis={**axis, "title": {"text": x, "standoff": 10, "font": {"size": 13}}},
        yaxis={**axis, "title": {"text": y, "standoff": 10, "font": {"size": 13}}, "showgrid": True},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "xanchor": "left"},
    )
    return plot


def log_ticks(low: float, high: float, floor: float | None = None) -> tuple[list[float], list[str]]:
    """Return ticks and labels of a logarithmic axis: about eight powers of ten, and `exactly 0` at the floor."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / 8))
    powers = list(range(last, first - 1, -stride))[::-1]
    positions, labels = [10.0**p for p in powers], [f"10<sup>{p}</sup>" if p else "1" for p in powers]
    return ([floor, *positions], ["exactly 0", *labels]) if floor else (positions, labels)
