"""Comparisons of architectures: accuracy by LeakyNet's init string, and against depth."""

import pandas as pd

from symbreak.sweeps.report.arms import describe
from symbreak.sweeps.report.figures.style import DASHES, PALETTE, Figure, blank, plain
from symbreak.sweeps.report.figures.training import dots
from symbreak.sweeps.report.table import RunTable, final_accuracy_key, split_name

SECTION = "Networks"
DEPTH, INIT = "model.init_args.depth", "model.init_args.init"


def init_strings(table: RunTable) -> Figure | None:
    """Draw final accuracy by LeakyNet's init string, one dot per run, coloured by the other parameters."""
    key = final_accuracy_key(table)
    if key is None or INIT not in table.runs or "model.class_path" not in table.runs:
        return None
    leaky = table.runs["model.class_path"].astype(str).str.endswith("LeakyNet")
    frame = pd.DataFrame({"group": table.runs[INIT], "value": table.final(key)})
    if set(table.varying) - {INIT}:
        frame["label"] = _labels(table, INIT)
    frame = frame[leaky].dropna()
    if frame["group"].nunique() < 2:
        return None
    plot = dots(frame, f"{split_name(key)} accuracy")
    caption = (
        "One dot per run, a bar for the mean. Letters name the initialisation of each layer, the stem first: "
        "h random, i identity, 1 averaging (constant), k and n the noisy forms of i and 1. Strings with fewer h and "
        "more 1 start with less diverse features."
    )
    return Figure("init-strings", SECTION, "LeakyNet by init string", caption, plot)


def depth(table: RunTable) -> Figure | None:
    """Draw final accuracy against depth, one line per combination of the other parameters."""
    key = final_accuracy_key(table)
    if key is None or DEPTH not in table.varying:
        return None
    columns = {"depth": pd.to_numeric(table.runs[DEPTH], errors="coerce"), "value": table.final(key)}
    frame = pd.DataFrame(columns | {"label": _labels(table, DEPTH)}).dropna()
    stats = frame.groupby(["label", "depth"], sort=False)["value"].agg(["mean", "min", "max"]).reset_index()
    plot = blank("depth (layers)", f"{split_name(key)} accuracy", height=360 + 14 * stats["label"].nunique())
    for i, (label, group) in enumerate(stats.groupby("label", sort=False)):
        line = group.sort_values("depth")
        errors = {"array": line["max"] - line["mean"], "arrayminus": line["mean"] - line["min"], "thickness": 1}
        plot.add_scatter(
            x=line["depth"],
            y=line["mean"],
            error_y={"symmetric": False} | errors,
            mode="lines+markers",
            line={"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i // len(PALETTE) % len(DASHES)]},
            name=plain(label),
            legendgroup=f"depth {i}",
            hovertemplate="<b>%{fullData.name}</b><br>depth %{x}: %{y:.2%}<extra></extra>",
        )
    depths = sorted(set(stats["depth"]))
    plot.update_xaxes(type="log", tickmode="array", tickvals=depths, ticktext=[f"{each:g}" for each in depths])
    plot.update_yaxes(tickformat=".0%", rangemode="tozero")
    caption = (
        "Mean over seeds; bars from lowest to highest seed. A line that falls to the right stops training when deep."
    )
    return Figure("depth", SECTION, "Depth against accuracy", caption, plot)


def _labels(table: RunTable, without: str) -> list[str]:
    """Return what tells each run apart, but for one parameter."""
    others = [name for name in table.varying if name != without]
    return [describe(config, others) for config in table.configs]
