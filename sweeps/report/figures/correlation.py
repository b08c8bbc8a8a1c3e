"""Mean correlation of weights over training, and ranks."""

import re

import pandas as pd
import plotly.graph_objects as go

from symbreak.sweeps.report.figures.style import (
    BAND,
    INK,
    ArmStyle,
    Figure,
    add_band,
    add_shade,
    arm_styles,
    bands,
    blank,
    left_out,
)
from symbreak.sweeps.report.table import RunTable

SECTION = "Diversity"
RANK_SECTION = "Ranks"
_RANK = re.compile(r"^[a-z_]+/([a-z_]*rank[a-z_]*)$")
HE_NAMES = frozenset({"he", "kaiming"})
_DIRECTIONS = {"forward": "incoming", "backward": "outgoing"}


def forward(table: RunTable) -> Figure | None:
    """Draw forward correlation by step, mean over layers."""
    return _correlation(table, "forward")


def backward(table: RunTable) -> Figure | None:
    """Draw backward correlation by step, mean over layers."""
    return _correlation(table, "backward")


def _correlation(table: RunTable, direction: str) -> Figure | None:
    key = f"diversity/{direction}_correlation"
    if not table.has(key):
        return None
    plot = blank("optimiser step", f"{direction} correlation")
    styles = arm_styles(table)
    for arm, frame in bands(table, key).items():
        add_band(plot, styles[arm], frame, "%{y:.4f}")
    plot.update_yaxes(rangemode="tozero")
    caption = (
        f"Mean Pearson correlation over all pairs of filters by their {_DIRECTIONS[direction]} weights, mean over "
        "layers. 1: every filter is a multiple of every other; near 0: as different as random filters. Compare where a "
        f"constant initialisation ends with where He's does. {BAND}{left_out(table)}"
    )
    return Figure(f"{direction}-correlation", SECTION, f"{direction.capitalize()} correlation", caption, plot)


def he_runs(table: RunTable) -> pd.Series:
    """Return for each run whether it was initialised by He's scheme."""
    inits = [key for key in table.runs if str(key).rsplit(".", 1)[-1] == "init"]
    return table.runs[inits].isin(HE_NAMES).any(axis=1)


def difference(table: RunTable) -> Figure | None:
    """Draw each arm's forward and backward correlation minus He's, with the range of He's seeds around 0."""
    he = he_runs(table)
    if not he.any() or he.all():
        return None
    plot, drawn = blank("optimiser step", "correlation minus He's"), 0
    for direction, dash in (("forward", "solid"), ("backward", "dash")):
        key = f"diversity/{direction}_correlation"
        if not table.has(key):
            continue
        series = table.series(key)
        is_he = he.to_numpy()[series["run"]]
        reference = series[is_he].groupby("step")["value"].agg(["mean", "min", "max"])
        means = series[~is_he].groupby(["arm", "step"])["value"].mean()
        for arm, style in arm_styles(table).items():
            if arm in means.index.get_level_values("arm"):
                gap = (means.loc[arm] - reference["mean"]).dropna()
                _add_gap(plot, f"{style.name}, {direction}", style, dash, gap)
                drawn += len(gap) > 0
        _add_range(plot, reference, direction, dash)
    if not drawn:
        return None
    caption = (
        "Mean over an arm's seeds minus the mean over He's, at the steps at which both were measured; solid: incoming "
        "weights (forward), dashed: outgoing ones (backward). Shade: lowest to highest seed of He. An arm that enters "
        "the shade and stays there has become as diverse as He's; one that levels off above it has not."
        f"{left_out(table)}"
    )
    return Figure("correlation-difference", SECTION, "Do the correlations meet He's?", caption, plot, wide=True)


def _add_gap(plot: go.Figure, name: str, style: ArmStyle, dash: str, gap: pd.Series) -> None:
    plot.add_scatter(
        x=gap.index.to_numpy(),
        y=gap.to_numpy(),
        mode="lines",
        line={"color": style.color, "dash": dash, "width": 2},
        name=name,
        legendgroup=style.group,
        hovertemplate="<b>%{fullData.name}</b><br>step %{x}: %{y:+.4f}<extra></extra>",
    )


def _add_range(plot: go.Figure, reference: pd.DataFrame, direction: str, dash: str) -> None:
    steps = reference.index.to_numpy()
    high, low = ((reference[name] - reference["mean"]).to_numpy() for name in ("max", "min"))
    options = {"line": {"width": 1, "color": INK, "dash": dash}, "name": f"He's seeds, {direction}"}
    add_shade(plot, steps, high, low, INK, 0.12, **options)


def ranks(table: RunTable) -> list[Figure]:
    """Draw one figure per rank measure that was logged as a mean over layers."""
    keys = [str(key) for key in table.history if _RANK.match(str(key)) and table.has(str(key))]
    return [_rank(table, key) for key in keys]


def _rank(table: RunTable, key: str) -> Figure:
    measure = key.split("/")[1].replace("_", " ")
    plot = blank("optimiser step", f"{measure} (dimensions)")
    styles = arm_styles(table)
    for arm, frame in bands(table, key).items():
        add_band(plot, styles[arm], frame, "%{y:.4g}")
    plot.update_yaxes(rangemode="tozero")
    caption = (
        f"{_rank_meaning(measure)} Mean over layers. Low and flat: the layer moves in few directions, whatever its "
        f"width. {BAND}{left_out(table)}"
    )
    return Figure(key.replace("/", "-"), RANK_SECTION, measure.capitalize(), caption, plot)


def _rank_meaning(measure: str) -> str:
    if "effective" in measure:
        return "Exponential of the entropy of the normalised singular values: how many directions matter."
    if "stable" in measure:
        return "Sum of squared singular values over the largest one squared: directions as strong as the first."
    return "Number of singular values that are not negligible."
