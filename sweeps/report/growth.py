"""Escape from symmetry and exponential growth, read off a run's history."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symbreak.sweeps.report.table import RunTable

ASYMMETRY = "symmetry/max_feature_asymmetry"
THRESHOLD = 0.1
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
        """The two end points of the fitted line, on the asymmetry's own scale."""
        steps = [self.start, self.stop]
        return steps, [math.exp(self.rate * step + self.offset) for step in steps]


def growth_fit(steps: np.ndarray, values: np.ndarray) -> Fit | None:
    """Fits the last rise from 1e-6, or from the lowest value since the previous rise, up to 1e-2.

    Returns:
        None where the asymmetry never passes 1e-2 from below, or fewer than three points lie on the rise.
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


def threshold(table: RunTable) -> float:
    """The asymmetry at which the runs' own callback calls features escaped; 0.1 where they do not say."""
    given = table.runs.get("symmetry_breaking.threshold")
    known = pd.to_numeric(given, errors="coerce").dropna() if given is not None else pd.Series(dtype=float)
    return float(known.iloc[0]) if known.nunique() == 1 else THRESHOLD


def escapes(table: RunTable) -> pd.DataFrame:
    """When each run escaped, per row of `table.runs`.

    Returns:
        Columns `escape` (first measured step with asymmetry >= threshold; inf where it never came), `previous` (the
        measured step before, so that the escape lies in (previous, escape]) and `last` (last measured step).
        Rows are NaN where the asymmetry was not measured.
    """
    result = pd.DataFrame(np.nan, index=table.runs.index, columns=["escape", "previous", "last"])
    if not table.has(ASYMMETRY):
        return result
    level = threshold(table)
    for run, group in table.series(ASYMMETRY).groupby("run", sort=False):
        steps, values = group["step"].to_numpy(), group["value"].to_numpy()
        above = np.flatnonzero(values >= level)
        first = int(above[0]) if len(above) else None
        escape = math.inf if first is None else float(steps[first])
        previous = steps[-1] if first is None else steps[first - 1] if first else -1
        result.loc[run] = [escape, float(previous), float(steps[-1])]
    return result
