"""HTML page of compared runs: table, figures and definitions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from symbreak.sweeps import pages
from symbreak.sweeps.compare.comparison import PairResult
from symbreak.sweeps.compare.table import COLUMNS, by_kind, known_columns, rows
from symbreak.sweeps.report.figures.style import DASHES, PALETTE, Figure, blank, plain
from symbreak.sweeps.run.record import Skipped

MAX_KINDS = 12


def write_page(
    path: Path, title: str, results: Sequence[PairResult], runs: int, skipped: Sequence[Skipped] = ()
) -> None:
    """Write the page about the pairs of ``runs`` runs, and those left out."""
    columns, body = rows(results)
    text = pages.render(
        "compare.html",
        get_plotlyjs(),
        pages.script("report.js"),
        title=title,
        facts=f"{runs} runs, {len(results)} pairs" + (f", {len(skipped)} left out" if skipped else ""),
        columns=columns,
        rows=body,
        figures=figures(results),
        skipped=[[each.name, each.reason] for each in skipped],
        meanings=[COLUMNS[name] for name in known_columns(results)],
    )
    pages.write(path, text)


def figures(results: Sequence[PairResult]) -> list[Figure]:
    """Return the figures for which there are values."""
    groups = dict(list(by_kind(results).items())[:MAX_KINDS])
    drawn = [_distances(groups), _churn(groups), _features(groups)]
    return [figure for figure in drawn if figure]


def _style(index: int) -> dict[str, str]:
    return {"color": PALETTE[index % len(PALETTE)], "dash": DASHES[index // len(PALETTE) % len(DASHES)]}


def _distances(groups: dict[str, list[PairResult]]) -> Figure | None:
    plot = blank("step", "relative distance of the weights", height=420)
    for index, (name, group) in enumerate(groups.items()):
        steps = sorted({step for result in group for step in result.by_step})
        medians = [float(np.median([r.by_step[s] for r in group if s in r.by_step])) for s in steps]
        shown = [(step, value) for step, value in zip(steps, medians, strict=True) if value > 0]
        if shown:
            x, y = zip(*shown, strict=True)
            plot.add_scatter(x=x, y=y, mode="lines+markers", line=_style(index), name=plain(name))
    if not plot.to_plotly_json()["data"]:
        return None
    plot.update_yaxes(type="log")
    text = "Median over pairs at each snapshot; steps at which all weights are bitwise equal are left out."
    return Figure("distance", "Figures", "Distance of the weights by step", text, plot, wide=True)


def _churn(groups: dict[str, list[PairResult]]) -> Figure | None:
    plot = blank("", "share of test images")
    for index, (name, group) in enumerate(groups.items()):
        values = [result.churn for result in group if result.churn is not None]
        box = {"boxpoints": "all", "jitter": 0.4, "pointpos": 0, "marker_size": 5, "line_width": 1}
        if values:
            plot.add_trace(go.Box(y=values, name=plain(name), marker_color=_style(index)["color"], **box))
    if not plot.to_plotly_json()["data"]:
        return None
    plot.update_layout(showlegend=False)
    text = "A point per pair. Pairs that share a run are not independent."
    return Figure("churn", "Figures", "Churn: predictions that differ", text, plot)


def _features(groups: dict[str, list[PairResult]]) -> Figure | None:
    plot = blank("layer", "CKA")
    for index, (name, group) in enumerate(groups.items()):
        examined = [result.cka_by_layer for result in group if result.cka_by_layer]
        if examined:
            layers = list(examined[0])
            means = [float(np.mean([each[layer] for each in examined])) for layer in layers]
            plot.add_scatter(
                x=[plain(layer) for layer in layers],
                y=means,
                mode="lines+markers",
                line=_style(index),
                name=plain(name),
            )
    if not plot.to_plotly_json()["data"]:
        return None
    text = "Debiased linear CKA of each layer's output, mean over the pairs that were examined."
    return Figure("cka", "Figures", "Similarity of the features", text, plot)
