"""Mean correlation of weights over training, and ranks."""

import re

from symbreak.sweeps.report.figures.style import BAND, Figure, add_band, arm_styles, bands, blank, left_out
from symbreak.sweeps.report.table import RunTable

SECTION = "Diversity"
RANK_SECTION = "Ranks"
_RANK = re.compile(r"^[a-z_]+/([a-z_]*rank[a-z_]*)$")
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
