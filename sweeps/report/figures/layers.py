"""Heat maps over layer and step: distinct filters and correlations."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from symbreak.sweeps.report.figures.style import Figure, arm_styles, blank, plain
from symbreak.sweeps.report.table import RunTable

SECTION = "Layer by layer"
COLORBAR = {"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "thickness": 10, "len": 0.7, "x": 0.5}
MAX_PANELS, MAX_LAYERS, MAX_COLUMNS = 6, 48, 200
_SHARED = "One panel per arm; layers from first (top) to last, median over seeds. "


def distinct_filters(table: RunTable) -> Figure | None:
    """Draw the number of bitwise distinct filters per layer and step."""
    cubes = _cubes(table, "symmetry/distinct_filters", "min")
    if not cubes:
        return None
    highest = max(2.0, max(float(np.nanmax(cube.to_numpy())) for cube in cubes.values()))
    counts = [2**p for p in range(int(np.log2(highest)) + 1)]
    logs = {arm: cube.clip(lower=1).map(np.log2) for arm, cube in cubes.items()}
    bar = {"tickvals": np.log2(counts).tolist(), "ticktext": [str(count) for count in counts]}
    plot = _panels(logs, cubes, (0.0, float(np.log2(highest))), {"title": "distinct filters"} | bar, ".0f")
    caption = (
        f"{_SHARED}Darkest: a single distinct filter, the layer is one channel wide. Each column shows the smallest "
        "count of the steps that it stands for."
    )
    return Figure("distinct-filters", SECTION, "Distinct filters", caption + _cut(table), plot, wide=True)


def forward_correlation(table: RunTable) -> Figure | None:
    """Draw the mean correlation of incoming weights per layer and step."""
    return _correlation(table, "forward", "incoming")


def backward_correlation(table: RunTable) -> Figure | None:
    """Draw the mean correlation of outgoing weights per layer and step."""
    return _correlation(table, "backward", "outgoing")


def _correlation(table: RunTable, direction: str, weights: str) -> Figure | None:
    cubes = _cubes(table, f"diversity/{direction}_correlation", "max")
    if not cubes:
        return None
    lowest = min(0.0, *(float(np.nanmin(cube.to_numpy())) for cube in cubes.values()))
    plot = _panels(cubes, cubes, (lowest, 1.0), {"title": "correlation"}, ".3f")
    caption = (
        f"{_SHARED}Mean Pearson correlation over all pairs of filters, by their {weights} weights: 1 (bright) where "
        "all are multiples of one, 0 (dark) where they have nothing in common. Each column shows the largest value of "
        "its steps."
    )
    return Figure(
        f"{direction}-map", SECTION, f"{direction.capitalize()} correlation", caption + _cut(table), plot, True
    )


def _cut(table: RunTable) -> str:
    arms = len(table.arms)
    return f" {MAX_PANELS} of {arms} arms are shown." if arms > MAX_PANELS else ""


def _cubes(table: RunTable, measure: str, extreme: str) -> dict[str, pd.DataFrame]:
    """Return per arm a frame layer x step: median over seeds, thinned to the extreme of each bucket of steps."""
    layers = [layer for layer in table.layers(measure) if table.has(f"{measure}/{layer}")]
    layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MAX_LAYERS)).astype(int))]
    keys = [f"{measure}/{layer}" for layer in layers]
    if not keys:
        return {}
    rows = table.history[["run", "step", *keys]].dropna(subset=keys, how="all")
    arms = table.runs["arm"].to_numpy()[rows["run"]]
    shown = list(arm_styles(table))
    shown = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MAX_PANELS)).astype(int))]
    cubes = {}
    for arm in shown:
        own = rows[arms == arm].drop(columns="run").groupby("step")[keys].median()
        if len(own):
            cubes[arm] = _bucket(own.set_axis(layers, axis=1), extreme).T
    return cubes


def _bucket(frame: pd.DataFrame, extreme: str) -> pd.DataFrame:
    """Merge neighbouring steps until at most `MAX_COLUMNS` are left; a bucket is named by its first step."""
    if len(frame) <= MAX_COLUMNS:
        return frame
    buckets = np.arange(len(frame)) * MAX_COLUMNS // len(frame)
    first = frame.index.to_numpy()[np.searchsorted(buckets, np.arange(MAX_COLUMNS))]
    return frame.groupby(buckets).agg(extreme).set_axis(first)


def _panels(
    colors: dict[str, pd.DataFrame], values: dict[str, pd.DataFrame], limits: tuple[float, float], bar: dict, fmt: str
) -> go.Figure:
    """Draw one heat map per arm, stacked vertically, with a common colour bar."""
    layers = max(len(cube) for cube in values.values())
    size = min(14, max(6, 420 // layers)) * layers + 52
    height = size * len(values) + 110
    titles = [f"<b>{plain(arm)}</b>" for arm in values]
    base = blank("", "", height=height)
    plot = make_subplots(len(values), 1, shared_xaxes=True, vertical_spacing=30 / height, subplot_titles=titles)
    plot.update_layout(base.layout)
    for row, (arm, cube) in enumerate(values.items(), start=1):
        labels = short_layers(list(cube.index))
        plot.add_heatmap(
            x=cube.columns.to_numpy(),
            y=labels,
            z=colors[arm].to_numpy(dtype="float32"),
            customdata=cube.to_numpy(dtype="float32"),
            coloraxis="coloraxis",
            hovertemplate=f"%{{y}}<br>step %{{x}}: %{{customdata:{fmt}}}<extra></extra>",
            row=row,
            col=1,
        )
    plot.update_yaxes(autorange="reversed", automargin=True, ticks="", tickfont={"size": 10}, showgrid=False)
    plot.update_xaxes(automargin=True, showline=False)
    plot.update_xaxes(title={"text": "optimiser step", "standoff": 8, "font": {"size": 13}}, row=len(values), col=1)
    plot.update_annotations(x=0, xanchor="left", font={"size": 13})
    title = {"text": bar["title"], "side": "top", "font": {"size": 13}}
    axis = {
        "colorscale": "Cividis",
        "cmin": limits[0],
        "cmax": limits[1],
        "colorbar": COLORBAR | bar | {"title": title},
    }
    plot.update_layout(coloraxis=axis, margin={"t": 92})
    return plot


def short_layers(layers: list[str], length: int = 18) -> list[str]:
    """Return layer names without the prefix that all share, cut at the left; numbered if two would be equal."""
    split = [layer.split(".") for layer in layers]
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    names = [".".join(parts[shared:]) for parts in split]
    names = [plain(name if len(name) <= length else f"…{name[1 - length :]}") for name in names]
    return names if len(set(names)) == len(names) else [f"{i} {name}" for i, name in enumerate(names)]
