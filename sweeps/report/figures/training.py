"""Accuracy and loss."""

import pandas as pd
import plotly.graph_objects as go

from symbreak.sweeps.report.figures.style import (
    BAND,
    PALETTE,
    Figure,
    add_band,
    arm_styles,
    bands,
    blank,
    left_out,
    plain,
)
from symbreak.sweeps.report.table import RunTable, final_accuracy_key, split_name

SECTION = "Learning"


def accuracy(table: RunTable) -> Figure | None:
    """Draw accuracy against the step, per arm."""
    key = next((key for key in ("val/accuracy", "train/accuracy") if table.has(key)), None)
    if key is None:
        return None
    plot = blank("optimiser step", f"{split_name(key)} accuracy")
    _draw(plot, table, key, "%{y:.2%}")
    plot.update_yaxes(tickformat=".0%", rangemode="tozero")
    caption = f"Share of {split_name(key)} images classified correctly after each step. {BAND}{left_out(table)}"
    return Figure("accuracy", SECTION, "Accuracy by step", caption, plot)


def loss(table: RunTable) -> Figure | None:
    """Draw loss against the step, per arm."""
    key = next((key for key in ("train/loss", "val/loss") if table.has(key)), None)
    if key is None:
        return None
    plot = blank("optimiser step", f"{split_name(key)} loss (nats)")
    _draw(plot, table, key, "%{y:.4g}")
    plot.update_yaxes(rangemode="tozero")
    caption = (
        f"Mean cross-entropy on {split_name(key)} images. {BAND} Peaks survive the thinning of long runs."
        f"{left_out(table)}"
    )
    return Figure("loss", SECTION, "Loss by step", caption, plot)


def _draw(plot: go.Figure, table: RunTable, key: str, hover: str) -> None:
    styles = arm_styles(table)
    for arm, frame in bands(table, key).items():
        add_band(plot, styles[arm], frame, hover)


def final_accuracy(table: RunTable) -> Figure | None:
    """Draw accuracy at the end, one dot per run."""
    key = final_accuracy_key(table)
    if key is None:
        return None
    frame = pd.DataFrame({"group": table.runs["arm"], "value": table.final(key)}).dropna()
    plot = dots(frame, f"{split_name(key)} accuracy")
    caption = (
        "One dot per run, one row per arm; the bar marks the mean over seeds. Where dots of a row lie far apart, "
        f"the seed matters more than the arm. Accuracy on {split_name(key)} images at the end of the run; "
        "runs that are not finished are shown where their arm has no finished one."
    )
    return Figure("final-accuracy", SECTION, "Where each arm ends", caption, plot)


def dots(frame: pd.DataFrame, title: str) -> go.Figure:
    """Draw one row per group: dots for runs, a bar for their mean.

    Args:
        frame: Columns `group` and `value`, and optionally `label`, of which each has a colour and a mean of its own.
        title: Title of the axis of values.
    """
    names = {group: plain(group, 30) for group in dict.fromkeys(frame["group"])}
    rows = {group: position for position, group in enumerate(reversed(names))}
    parts = list(frame.groupby("label", sort=False)) if "label" in frame else [("", frame)]
    plot = blank(title, "", height=max(260, 90 + 30 * len(names)) + 24 * (len(parts) - 1))
    for i, (label, part) in enumerate(parts):
        shift = 0.3 * ((len(parts) - 1) / 2 - i) / max(1, len(parts) - 1)
        means = part.groupby("group")["value"].mean()
        color, name = PALETTE[i % len(PALETTE)], f", {plain(label)}" if label else ""
        bar = {"symbol": "line-ns-open", "size": 18 if len(parts) == 1 else 12, "color": color, "line": {"width": 3}}
        dot, hover = {"size": 9, "color": color, "opacity": 0.55}, "%{x:.2%}<extra></extra>"
        y = part["group"].map(rows) + shift
        plot.add_scatter(x=part["value"], y=y, mode="markers", marker=dot, name=f"run{name}", hovertemplate=hover)
        y = [rows[group] + shift for group in means.index]
        hover = f"mean {hover}"
        plot.add_scatter(x=means, y=y, mode="markers", marker=bar, name=f"mean{name}", hovertemplate=hover)
    ticks = {"tickmode": "array", "tickvals": list(rows.values()), "ticktext": [names[group] for group in rows]}
    plot.update_yaxes(**ticks, range=[-0.6, len(rows) - 0.4], showgrid=True, showline=False, ticks="")
    plot.update_xaxes(tickformat=".0%", range=[min(0.0, frame["value"].min()), 1.02])
    return plot
