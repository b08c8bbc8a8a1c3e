"""Any source of symmetry breaking, read as the initial noise scale that escapes at the same step."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import describe, readable
from symbreak.sweeps.report.growth import escapes
from symbreak.sweeps.report.noise_sources import is_source_key, source_of
from symbreak.sweeps.report.table import RunTable


@dataclass(frozen=True)
class Curve:
    """Escape step against initial noise scale.

    Attributes:
        scales: Noise scales, ascending.
        early: Earliest step at which any seed can have escaped (the measured step before its escape).
        middle: Median escape step over the seeds, made monotone.
        late: Latest escape step of any seed; inf where one never escaped.
        seeds: Number of runs behind each point.
    """

    scales: np.ndarray
    early: np.ndarray
    middle: np.ndarray
    late: np.ndarray
    seeds: np.ndarray


@dataclass(frozen=True)
class Equivalent:
    """A source placed on the curve.

    Attributes:
        label: Name of the source.
        arm: Label of its arm.
        escapes: Escape step of each seed, ascending; inf where it never escaped.
        scale: Equivalent initial noise scale; 0 where it lies below the measured range, inf where above.
        low: Lower end of the interval, 0 where it lies below the measured range.
        high: Upper end of the interval, inf where it lies above the measured range.
        range: Smallest noise scale that escaped, and the largest.
    """

    label: str
    arm: str
    escapes: tuple[float, ...]
    scale: float
    low: float
    high: float
    range: tuple[float, float]

    @property
    def text(self) -> str:
        """`3e-07 (1e-07 to 8e-07)`, `below 1e-08`, `above 0.1` or `no escape`."""
        if all(math.isinf(step) for step in self.escapes):
            return "no escape"
        middle, low, high = (self._end(scale) for scale in (self.scale, self.low, self.high))
        return f"{middle} ({low} to {high})" if 0 < self.scale < math.inf else middle

    def _end(self, scale: float) -> str:
        if scale == 0:
            return f"below {readable(self.range[0])}"
        return f"above {readable(self.range[1])}" if math.isinf(scale) else readable(float(f"{scale:.1e}"))


def decreasing(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The closest non-increasing sequence in the weighted least-squares sense (pool adjacent violators)."""
    blocks: list[list[float]] = []
    weights = np.ones(len(values)) if weights is None else weights
    for value, weight in zip(values, weights, strict=True):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (v1, w1, n1), (v2, w2, n2) = blocks[-2:]
            mean = math.inf if math.isinf(v1 + v2) else (v1 * w1 + v2 * w2) / (w1 + w2)
            blocks[-2:] = [[mean, w1 + w2, n1 + n2]]
    return np.concatenate([np.full(int(n), value) for value, _, n in blocks])


def scale_at(step: float, scales: np.ndarray, steps: np.ndarray) -> float:
    """The noise scale that escapes at `step`, by linear interpolation of log scale against the step.

    Args:
        step: Escape step to look up.
        scales: Noise scales, ascending.
        steps: Their escape steps, non-increasing; inf where there was no escape.

    Returns:
        On a plateau the geometric mean of its ends. 0 for a step later than the curve's latest and inf for one
        earlier than its earliest: nothing is extrapolated.
    """
    known = np.isfinite(steps)
    rising, logs = steps[known][::-1], np.log(scales[known][::-1])
    if not len(rising) or step > rising[-1]:
        return 0.0
    if step < rising[0]:
        return math.inf
    on = np.flatnonzero(rising == step)
    if len(on):
        return math.exp((logs[on[0]] + logs[on[-1]]) / 2)
    return math.exp(float(np.interp(step, rising, logs)))


def place(curve: Curve, label: str, arm: str, steps: pd.DataFrame) -> Equivalent:
    """Reads a source's equivalent noise scale off the curve.

    The estimate inverts the median curve at the source's median escape step. The interval holds every scale whose
    seeds escaped within the range of the source's own seeds, the spacing of the measured steps included.

    Args:
        curve: Escape step against initial noise scale.
        label: Name of the source.
        arm: Label of its arm.
        steps: Rows of `escapes` for the source's runs.
    """
    times = tuple(sorted(float(step) for step in steps["escape"]))
    escaped = curve.scales[np.isfinite(curve.middle)]
    late = decreasing(curve.late)
    low = scale_at(times[-1], curve.scales, decreasing(curve.early))
    high = scale_at(float(steps["previous"].min()), curve.scales, late)
    if high == 0:
        high = float(curve.scales[np.isfinite(late)][0]) if np.isfinite(late).any() else math.inf
    scale = scale_at(float(np.median(times)), curve.scales, curve.middle)
    return Equivalent(label, arm, times, scale, low, high, (float(escaped[0]), float(escaped[-1])))


@dataclass(frozen=True)
class NoiseLaw:
    """One experiment's curve with every other source placed on it."""

    setting: str
    curve: Curve
    sources: list[Equivalent]


def noise_laws(table: RunTable) -> list[NoiseLaw]:
    """Finds, per setting (everything equal but sources and seeds), the curve and places the other sources.

    A setting needs at least two noise scales of which one escaped. Where all noisy runs share another source
    (say, the non-deterministic mode of a GPU), that source is the background of the whole curve.
    """
    frame = escapes(table).dropna()
    if frame.empty:
        return []
    rows = [row for row, known in zip(table.records(), table.runs.index.isin(frame.index), strict=True) if known]
    sources = [source_of(row) for row in rows]
    settings = [key for key in table.varying if not is_source_key(key)]
    frame = frame.assign(
        arm=[row["arm"] for row in rows],
        noise=[source.noise_scale for source in sources],
        label=[source.label for source in sources],
        setting=[describe(row, settings) for row in rows],
    )
    laws = [_law(group, str(name)) for name, group in frame.groupby("setting", sort=False)]
    return [law for law in laws if law]


def _law(frame: pd.DataFrame, setting: str) -> NoiseLaw | None:
    noisy = frame[frame["noise"] > 0]
    if noisy.empty:
        return None
    background = "none" if noisy["label"].eq("none").any() else str(noisy["label"].mode().iloc[0])
    pure = noisy[noisy["label"] == background]
    if pure["noise"].nunique() < 2 or not np.isfinite(pure["escape"]).any():
        return None
    curve = _curve(pure)
    others = frame[(frame["noise"] == 0) & (frame["label"] != background)]
    groups = others.groupby("label", sort=False)
    return NoiseLaw(setting, curve, [place(curve, str(name), str(own["arm"].iloc[0]), own) for name, own in groups])


def _curve(pure: pd.DataFrame) -> Curve:
    points = pure.groupby("noise").agg(
        early=("previous", "min"), middle=("escape", "median"), late=("escape", "max"), seeds=("escape", "size")
    )
    columns = {name: points[name].to_numpy(dtype=float) for name in ("early", "middle", "late", "seeds")}
    columns["middle"] = decreasing(columns["middle"], columns["seeds"])
    return Curve(points.index.to_numpy(dtype=float), **columns)
