"""Bootstrap over runs: intervals of a standard deviation and of a churn, and whether two spreads differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 5
"""Minimum number of runs for an interval or a claim."""
RESAMPLES = 4000
CONFIDENCE = 0.95

Interval = tuple[float, float]


def mean_churn(matrix: np.ndarray) -> float:
    """Return the mean over pairs of different runs."""
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def resampled_churn(matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the mean churn of bootstrap samples of runs, over the pairs of different runs in each sample."""
    n = len(matrix)
    runs = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    first, second = np.triu_indices(n, 1)
    left, right = runs[:, first], runs[:, second]
    values = np.where(left == right, np.nan, matrix[left, right])
    return np.nanmean(values[(left != right).any(axis=1)], axis=1)


def churn_interval(matrix: np.ndarray) -> Interval | None:
    """Return the bootstrap interval of the mean churn, resampling runs, not pairs; None for fewer than `LEAST`."""
    if len(matrix) < LEAST:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled_churn(matrix), [tail, 1 - tail])
    return float(low), float(high)


def spread_interval(values: Sequence[float]) -> Interval | None:
    """Return the bootstrap interval of the standard deviation over runs; None for fewer than `LEAST`."""
    if len(values) < LEAST:
        return None
    if np.ptp(values) == 0:
        return 0.0, 0.0
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values),), _spread, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, rng=0, method="percentile"
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _spread(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.std(values, axis=axis, ddof=1)


def spreads_differ(first: Sequence[float], second: Sequence[float], confidence: float) -> bool:
    """Return whether the bootstrap interval of the difference of two standard deviations excludes 0."""
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return False
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(first), np.asarray(second)),
        lambda x, y, axis=-1: _spread(x, axis) - _spread(y, axis),
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        rng=0,
        method="percentile",
    )
    return not found.confidence_interval.low <= 0 <= found.confidence_interval.high


def churns_differ(first: np.ndarray, second: np.ndarray, confidence: float) -> bool:
    """Return whether the bootstrap interval of the difference of two mean churns excludes 0.

    Args:
        first: Churn of each pair of runs of one source (n, n).
        second: The same of another.
        confidence: Level of the interval.
    """
    one, other = resampled_churn(first, seed=0), resampled_churn(second, seed=1)
    count = min(len(one), len(other))
    low, high = np.quantile(one[:count] - other[:count], [(1 - confidence) / 2, (1 + confidence) / 2])
    return not low <= 0 <= high
