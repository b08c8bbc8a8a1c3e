"""Parallel coordinates of a sweep."""

from typing import Any

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import short_names
from symbreak.sweeps.report.figures.style import Figure, blank, plain
from symbreak.sweeps.report.table import RunTable, final_accuracy_key, split_name

MIN_RUNS, MAX_AXES = 8, 8
# Both ends are visible on white and on dark backgrounds.
SCALE = [[0.0, "#56B4E9"], [0.5, "#CC79A7"], [1.0, "#D55E00"]]


def parallel(table: RunTable) -> Figure | None:
    """Draw one line per run through its varying parameters, its escape step and its final accuracy."""
    key = final_accuracy_key(table)
    keys = table.varying[:MAX_AXES]
    if key is None or len(keys) < 2 or len(table.runs) < MIN_RUNS:
        return None
    accuracy = table.final(key)
    names = short_names(keys)
    axes = [
        _axis(names[name], pd.Series([config.get(name) for config in table.configs], dtype=object)) for name in keys
    ]
    escape = table.event("escape_step")
    axes += [_axis("escape step", escape)] if escape.notna().any() else []
    axes.append(_axis(f"{split_name(key)} accuracy", accuracy) | {"tickformat": ".0%"})
    plot = blank("", "", height=420)
    line = {"color": accuracy.fillna(0), "colorscale": SCALE, "cmin": 0, "cmax": max(accuracy.max(), 1e-9)}
    plot.add_parcoords(dimensions=axes, line=line, labelfont={"size": 12}, tickfont={"size": 11}, rangefont={"size": 1})
    plot.update_layout(margin={"l": 80, "r": 60, "t": 60, "b": 30}, xaxis_visible=False, yaxis_visible=False)
    caption = (
        "One line per run, from its parameters to its outcome; blue lines are inaccurate, orange ones accurate. Drag "
        "along an axis to keep the runs that pass there; click to release. A run that has not escaped passes below "
        "all others at the escape step."
    )
    return Figure("parallel", "Sweep", "Parameters and outcomes", caption, plot, wide=True)


def _axis(label: str, values: pd.Series) -> dict[str, Any]:
    """Return one axis: logarithmic where positive numbers span decades, one tick per value where they are text."""
    numbers = pd.to_numeric(values.astype(object).where(~values.map(lambda v: isinstance(v, bool))), errors="coerce")
    if numbers.notna().sum() < values.notna().sum() or numbers.isna().all():
        codes, words = pd.factorize(values.astype(str))
        ticks = {"tickvals": list(range(len(words))), "ticktext": [plain(word, 18) for word in words]}
        return {"label": plain(label, 24), "values": codes, "range": [-0.3, len(words) - 0.7]} | ticks
    positive = numbers[numbers > 0]
    if len(positive) and positive.max() / positive.min() >= 100:
        return _log_axis(label, numbers, positive)
    low, high = float(numbers.min()), float(numbers.max())
    missing = low - 0.1 * ((high - low) or 1.0)
    return {"label": plain(label, 24), "values": numbers.fillna(missing), "range": [missing, high]}


def _log_axis(label: str, numbers: pd.Series, positive: pd.Series) -> dict[str, Any]:
    """Return a logarithmic axis, with zero (or no value) one decade below the smallest value and labelled as such."""
    first, last = int(np.floor(np.log10(positive.min()))), int(np.ceil(np.log10(positive.max())))
    floor = first - 1
    logs = numbers.where(numbers > 0).map(np.log10).fillna(floor)
    powers = list(range(first, last + 1, max(1, (last - first) // 6)))
    ticks = {"tickvals": [floor, *powers], "ticktext": ["0", *(f"1e{power}" for power in powers)]}
    return {"label": plain(label, 24), "values": logs, "range": [floor - 0.2, last + 0.1]} | ticks
