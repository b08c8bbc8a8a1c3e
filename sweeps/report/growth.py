"""Escape from symmetry, and exponential growth, of the runs in a table."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symbreak.sweeps.report.table import RunTable

ASYMMETRY = "symmetry/max_feature_asymmetry"
THRESHOLD_KEY, THRESHOLD = "symmetry_breaking.threshold", 0.1
RISE_FROM, RISE_TO = 1e-6, 1e-2


@dataclass(frozen=True)
class Fit:
    """Least-squares line ln(asymmetry) = rate * step + offset over the steps [start, stop], with its R^2."""

    rate: float
    offset: float
    r2: float
    start: int
    stop: int

    def line(self) -> tuple[list[int], list[float]]:
        """Return the two end points of the fitted line, as asymmetries, not logarithms."""
        steps = [self.start, self.stop]
        return steps, [math.exp(self.rate * step + self.offset) for step in steps]


def growth_fit(steps: np.ndarray, values: np.ndarray) -> Fit | None:
    """Fit the last rise from 1e-6, or from the lowest value since the previous rise, up to 1e-2.

    Returns:
        None if the asymmetry never rises past 1e-2, or the rise has fewer than three points.
    """
    is_high = values >= RISE_TO
    rises = np.flatnonzero(is_high[1:] & ~is_high[:-1]) + 1
    if not len(rises):
        return None
    end = int(rises[-1])
    begin = int(max(np.flatnonzero(is_high[:end]), default=-1)) + 1
    under = np.flatnonzero(values[begin:end] < RISE_FROM)
    begin += int(under[-1]) + 1 if len(under) else int(np.argmin(values[begin:end]))
    if end - begin < 3:
        return None
    x, y = steps[begin:end], np.log(values[begin:end])
    rate, offset = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - rate * x - offset) ** 2).sum()) / total if total else 1.0
    return Fit(float(rate), float(offset), r2, int(x[0]), int(x[-1]))


def thresholds(table: RunTable, runs: Iterable[int] | None = None) -> list[float]:
    """Return the distinct asymmetries at which the runs' features count as escaped, ascending.

    Args:
        table: The runs.
        runs: Row numbers of the runs to use, None for all.
    """
    configs = table.configs if runs is None else [table.configs[run] for run in runs]
    given = {config.get(THRESHOLD_KEY) for config in configs}
    return sorted({float(value) if isinstance(value, (int, float)) else THRESHOLD for value in given})


def escapes(table: RunTable) -> pd.DataFrame:
    """Return when each run escaped, per row of `table.runs`.

    The escape step is the one that the run logged, by its own threshold. A run without one, finished or not, is
    censored at its last measured step.

    Returns:
        Columns `escape` (first measured step at which the asymmetry reached the threshold; NaN where it has not),
        `previous` (the measured step before, so that the escape lies in (previous, escape]), `last` (last measured
        step) and `finished`. All but the last are NaN where the asymmetry was not measured.
    """
    result = pd.DataFrame(np.nan, index=table.runs.index, columns=["escape", "previous", "last"])
    result["finished"] = table.runs["status"] == "finished"
    if not table.has(ASYMMETRY):
        return result
    noted = table.event("escape_step").to_numpy()
    for run, group in table.series(ASYMMETRY).groupby("run", sort=False):
        steps, escape = group["step"].to_numpy(), noted[run]
        before = steps if math.isnan(escape) else steps[steps < escape]
        previous = float(before[-1]) if len(before) else -1.0
        result.loc[run, ["escape", "previous", "last"]] = [escape, previous, np.nanmax([escape, steps[-1]])]
    return result


def median_step(steps: np.ndarray, last: np.ndarray) -> tuple[float, bool]:
    """Return the median step of an event, with right-censored runs (Kaplan and Meier, 1958).

    Args:
        steps: Step of the event in each run, NaN where it has not occurred.
        last: Last step at which each run was measured.

    Returns:
        The median and True; if it lies after the last measured step, that step and False.
    """
    occurred = ~np.isnan(steps)
    times = np.where(occurred, steps, last)
    share, half = 1.0, math.nan
    for time in np.unique(times[occurred]):
        share *= 1 - (occurred & (times == time)).sum() / (times >= time).sum()
        if share < 0.5 - 1e-9:
            return float(time if math.isnan(half) else (half + time) / 2), True
        if share < 0.5 + 1e-9:  # an even number of runs: the mean of the two middle steps
            half = time
    return float(times.max()), False
