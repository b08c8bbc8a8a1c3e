"""Equivalent noise of a source of symmetry breaking: the initial noise scale that escapes at the same step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import describe, readable, varying_keys
from symbreak.sweeps.report.growth import escapes, median_step
from symbreak.sweeps.report.noise_sources import is_source_key, source_of, world_size
from symbreak.sweeps.report.table import RunTable

BATCH_SIZE = "data.init_args.batch_size"


@dataclass(frozen=True)
class Curve:
    """Escape step against initial noise scale, non-increasing.

    Attributes:
        scales: Noise scales whose median escape step is known, ascending.
        early: Earliest step at which any seed can have escaped (the measured step before its escape).
        middle: Median escape step over the seeds.
        late: Latest escape step of any seed; inf where that is not known.
        seeds: Number of runs per point.
        left_out: The other noise scales, each with the step until which at least half of its runs had not escaped.
    """

    scales: np.ndarray
    early: np.ndarray
    middle: np.ndarray
    late: np.ndarray
    seeds: np.ndarray
    left_out: dict[float, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Equivalent:
    """A source placed on the curve.

    Attributes:
        label: Name of the source.
        arm: Label of its arm.
        step: Median escape step over its runs, those that have not escaped last: inf if they are half or more.
        scale: Equivalent initial noise scale; 0 if only known to lie below `high`, inf if above the curve.
        low: Lower end of the interval, 0 if below the curve.
        high: Upper end of the interval, inf if above the curve.
        range: Smallest and largest noise scale of the curve.
        runs: Number of its runs.
        not_escaped: Number of those that have not escaped.
        open_at: Step until which half of the runs or more have not escaped, if `step` is inf; None otherwise, and
            if all runs ended without escape.
    """

    label: str
    arm: str
    step: float
    scale: float
    low: float
    high: float
    range: tuple[float, float]
    runs: int
    not_escaped: int
    open_at: int | None = None

    @property
    def escaped(self) -> bool:
        """Return whether any run escaped."""
        return self.not_escaped < self.runs

    @property
    def text(self) -> str:
        """Return `3e-07 (1e-07 to 8e-07)`, `below 1e-08`, `above 0.1`, `no escape` or `no escape by step 40`."""
        if not self.escaped:
            return "no escape" if self.open_at is None else f"no escape by step {self.open_at}"
        if self.scale == 0:
            return f"below {readable(float(f'{self.high:.1e}'))}"
        middle, low, high = (self._end(scale) for scale in (self.scale, self.low, self.high))
        return middle if math.isinf(self.scale) else f"{middle} ({low} to {high})"

    def _end(self, scale: float) -> str:
        if scale == 0:
            return f"below {readable(self.range[0])}"
        return f"above {readable(self.range[1])}" if math.isinf(scale) else readable(float(f"{scale:.1e}"))


def decreasing(values: np.ndarray, weights: np.ndarray | None = None, known: np.ndarray | None = None) -> np.ndarray:
    """Return the closest non-increasing sequence in the weighted least-squares sense (pool adjacent violators).

    An unknown value is a lower bound: only the amount by which the fit lies below it adds to the squared error. Its fit
    is that of its left neighbour, the largest allowed, or inf without one.
    """
    weights = np.ones(len(values)) if weights is None else weights
    known = np.ones(len(values), dtype=bool) if known is None else known
    blocks: list[list[int]] = []
    fits: list[float] = []
    for index in range(len(values)):
        blocks.append([index])
        fits.append(_block_fit(values, weights, known, [index]))
        while len(fits) > 1 and fits[-2] < fits[-1]:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
            fits[-2:] = [_block_fit(values, weights, known, blocks[-1])]
    return np.repeat(fits, [len(block) for block in blocks])


def _block_fit(values: np.ndarray, weights: np.ndarray, known: np.ndarray, block: list[int]) -> float:
    """Return the best constant fit of a block: the mean of its known values and of the bounds above the fit."""
    exact = [index for index in block if known[index]]
    if not exact:
        return math.inf
    for index in sorted((index for index in block if not known[index]), key=lambda index: -values[index]):
        if values[index] > np.average(values[exact], weights=weights[exact]):
            exact.append(index)
    return float(np.average(values[exact], weights=weights[exact]))


def scale_at(step: float, scales: np.ndarray, steps: np.ndarray) -> float:
    """Return the noise scale that escapes at `step`, by linear interpolation of log scale against the step.

    Args:
        step: Escape step to look up.
        scales: Noise scales, ascending.
        steps: Their escape steps, non-increasing; inf where it is not known.

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


def place(curve: Curve, label: str, arm: str, runs: pd.DataFrame) -> Equivalent:
    """Read a source's equivalent noise scale off the curve.

    The estimate inverts the median curve at the source's median escape step. The interval holds every scale whose
    seeds escaped within the range of the source's own seeds, the spacing of the measured steps included. If at least
    half of the seeds have not escaped, the last measured step gives an upper bound.

    Args:
        curve: Escape step against initial noise scale.
        label: Name of the source.
        arm: Label of its arm.
        runs: Rows of `escapes` for the source's runs.
    """
    escaped = runs[runs["escape"].notna()]
    ends = float(curve.scales[0]), float(curve.scales[-1])
    counts = len(runs), len(runs) - len(escaped)
    if escaped.empty:
        unfinished = runs["last"][~runs["finished"]]
        open_at = None if unfinished.empty else int(unfinished.max())
        return Equivalent(label, arm, math.inf, 0.0, 0.0, ends[0], ends, *counts, open_at)
    step, is_known = median_step(runs["escape"].to_numpy(), runs["last"].to_numpy())
    scale = scale_at(step, curve.scales, curve.middle)
    if scale == 0 or not is_known:
        bound = min(scale or ends[0], ends[1])
        median, open_at = (step, None) if is_known else (math.inf, int(step))
        return Equivalent(label, arm, median, 0.0, 0.0, bound, ends, *counts, open_at)
    latest, is_latest = _latest(runs)
    low = scale_at(latest, curve.scales, curve.early) if is_latest else 0.0
    high = scale_at(float(escaped["previous"].min()), curve.scales, curve.late)
    if high == 0:
        high = float(curve.scales[np.isfinite(curve.late)][0]) if np.isfinite(curve.late).any() else math.inf
    return Equivalent(label, arm, step, scale, low, high, ends, *counts)


def _latest(runs: pd.DataFrame) -> tuple[float, bool]:
    """Return the latest escape step, and whether it is known (no run without escape continued longer)."""
    latest, longest = runs["escape"].max(), runs["last"][runs["escape"].isna()].max()
    return (float(longest), False) if math.isnan(latest) or longest > latest else (float(latest), True)


@dataclass(frozen=True)
class NoiseLaw:
    """One experiment's curve with every other source placed on it."""

    setting: str
    curve: Curve
    sources: list[Equivalent]


def noise_laws(table: RunTable) -> list[NoiseLaw]:
    """Find the curve of each setting (everything equal but sources and seeds), and place the other sources on it.

    A setting needs at least two noise scales of which one escaped. Where all noisy runs share another source
    (say, the non-deterministic mode of a GPU), that source is the background of the whole curve.
    """
    frame = escapes(table).dropna(subset="last")
    if frame.empty:
        return []
    sources = [source_of(table.configs[run], table.meta[run]) for run in frame.index]
    configs = _whole_batches(table, frame.index)
    settings = [key for key in varying_keys(configs) if not is_source_key(key)]
    frame = frame.assign(
        arm=table.runs["arm"][frame.index],
        noise=[source.noise_scale for source in sources],
        label=[source.label for source in sources],
        setting=[describe(config, settings) for config in configs],
    )
    laws = [_law(group, str(name)) for name, group in frame.groupby("setting", sort=False)]
    return [law for law in laws if law]


def _whole_batches(table: RunTable, runs: Iterable[int]) -> list[dict[str, Any]]:
    """Return the runs' configurations, with the batch size of all ranks where single ranks train with that size."""
    pairs = [(table.configs[run], world_size(table.configs[run], table.meta[run])) for run in runs]
    single = {config.get(BATCH_SIZE) for config, ranks in pairs if ranks == 1}
    whole = [(config, config.get(BATCH_SIZE, 0) * ranks) for config, ranks in pairs]
    return [{**config, BATCH_SIZE: size} if size in single else config for config, size in whole]


def _law(frame: pd.DataFrame, setting: str) -> NoiseLaw | None:
    noisy = frame[frame["noise"] > 0]
    if noisy.empty:
        return None
    background = "none" if noisy["label"].eq("none").any() else str(noisy["label"].mode().iloc[0])
    pure = noisy[noisy["label"] == background]
    if pure["noise"].nunique() < 2 or not len((curve := _curve(pure)).scales):
        return None
    others = frame[(frame["noise"] == 0) & (frame["label"] != background)]
    groups = others.groupby("label", sort=False)
    return NoiseLaw(setting, curve, [place(curve, str(name), str(own["arm"].iloc[0]), own) for name, own in groups])


def _curve(pure: pd.DataFrame) -> Curve:
    scales, groups = zip(*pure.groupby("noise"), strict=True)
    seeds = np.array([len(own) for own in groups], dtype=float)
    middle, known = map(np.array, zip(*(median_step(own["escape"], own["last"]) for own in groups), strict=True))
    late, late_known = map(np.array, zip(*map(_latest, groups), strict=True))
    early = np.array([own["previous"][own["escape"].notna()].min() for own in groups], dtype=float)
    return Curve(
        scales=np.array(scales, dtype=float)[known],
        early=decreasing(early[known]),
        middle=decreasing(middle, seeds, known)[known],
        late=decreasing(late, None, late_known)[known],
        seeds=seeds[known],
        left_out={float(scales[i]): int(middle[i]) for i in np.flatnonzero(~known)},
    )
