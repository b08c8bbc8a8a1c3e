"""An audit as a matrix: which operation is repeatable, which is symmetric, in which precision."""

import numpy as np
import pandas as pd

from symbreak.sweeps.report.figures.style import Figure, blank, plain

# State = repeatable + 2 * symmetric. Blue and orange hues are distinguishable with every kind of colour vision.
STATES = ("neither", "repeatable, not symmetric", "symmetric, not repeatable", "repeatable and symmetric")
COLORS = ("#7f3b08", "#E69F00", "#56B4E9", "#0072B2")
SIGNS = ("✗ ✗", "= ✗", "✗ ≡", "= ≡")


def matrices(frame: pd.DataFrame) -> list[Figure]:
    """Draw one matrix per mode; cases that do not depend on the mode appear in each.

    Args:
        frame: Cases as :func:`symbreak.sweeps.audit.records.read` returns them.
    """
    ranks = frame["world_size"].map(lambda size: f", {size} ranks" if size > 1 else "")
    frame = frame.assign(operation=frame["operation"] + ranks)
    anywhere = frame["mode"] == "any"
    modes = list(dict.fromkeys(frame["mode"][~anywhere]))
    if len(modes) < 2:
        return [matrix(frame, "")]
    return [matrix(frame[anywhere | (frame["mode"] == mode)], mode) for mode in modes]


CAPTION = (
    "= repeatable: the same bits when run again. ≡ symmetric: identical channels in give identical channels out. "
    "✗ not so in at least one case (shape, memory format). Dark blue: both; light blue: symmetric only; orange: "
    "repeatable only, it breaks symmetry the same way every time; brown: neither; blank: not possible here."
)


def matrix(frame: pd.DataFrame, setting: str) -> Figure:
    """Draw operation x precision with four states; the worst case over shapes and memory formats decides.

    Args:
        frame: Columns operation, precision, repeatable, symmetric (None where it could not run); one row per case.
        setting: Determinism mode, for the title.
    """
    operations, precisions = list(dict.fromkeys(frame["operation"])), list(dict.fromkeys(frame["precision"]))
    measured = frame.dropna(subset=["repeatable", "symmetric"])
    groups = measured.astype({"repeatable": bool, "symmetric": bool}).groupby(["operation", "precision"], sort=False)
    cells = groups.agg({"repeatable": "all", "symmetric": "all"}).assign(
        cases=groups.size(), ok=groups["symmetric"].sum()
    )
    state = (cells["repeatable"].astype(int) + 2 * cells["symmetric"].astype(int)).unstack()
    state = state.reindex(index=operations, columns=precisions)
    signs = state.map(lambda code: "" if pd.isna(code) else SIGNS[int(code)])
    words = state.map(lambda code: "not possible here" if pd.isna(code) else STATES[int(code)])
    cases = cells["cases"].unstack().reindex(index=operations, columns=precisions).fillna(0)
    good = cells["ok"].unstack().reindex(index=operations, columns=precisions).fillna(0)
    plot = blank("precision", "", height=150 + 30 * len(operations))
    steps = [[edge, color] for i, color in enumerate(COLORS) for edge in (i / 4, (i + 1) / 4)]
    plot.add_heatmap(
        x=[plain(name, 20) for name in precisions],
        y=[plain(name, 34) for name in operations],
        z=state.to_numpy(dtype=float),
        zmin=-0.5,
        zmax=3.5,
        colorscale=steps,
        showscale=False,
        xgap=2,
        ygap=2,
        text=signs.to_numpy(),
        texttemplate="%{text}",
        customdata=np.dstack([words, good, cases]),
        hovertemplate=(
            "<b>%{y}</b>, %{x}<br>%{customdata[0]}<br>"
            "symmetric in %{customdata[1]} of %{customdata[2]} cases<extra></extra>"
        ),
    )
    plot.update_yaxes(autorange="reversed", ticks="", showgrid=False, showline=False)
    plot.update_xaxes(side="top", ticks="", showline=False, showgrid=False)
    title = f"Which operation breaks symmetry{': ' + setting if setting else ''}"
    key = "audit" + "".join(f"-{word}" for word in setting.replace(",", "").split())
    return Figure(key, "Audit", title, CAPTION, plot, wide=True)
