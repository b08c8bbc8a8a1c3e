"""The noise ledger: the effect of each source of randomness on the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np

from symbreak.callbacks.snapshot_files import snapshot_steps
from symbreak.sweeps.compare.predictions import churn, read_predictions
from symbreak.sweeps.compare.weights import (
    BUFFERS,
    DistanceGrowth,
    all_pairs,
    common_steps,
    distances_by_step,
    growth_of,
    read_state,
    separation_step,
)
from symbreak.sweeps.report.bootstrap import (
    CONFIDENCE,
    LEAST,
    Interval,
    churn_interval,
    churns_differ,
    mean_churn,
    spread_interval,
    spreads_differ,
)
from symbreak.sweeps.report.equivalent_noise import decreasing, scale_at
from symbreak.sweeps.report.ledger_sources import source_name, treatment
from symbreak.sweeps.report.noise_sources import SEEDS, perturbation_kind
from symbreak.sweeps.report.table import RunTable, final_accuracy_key

Pairing = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Entry:
    """Effect of one source of randomness on the result.

    Attributes:
        source: What differs between the runs.
        accuracies: Final accuracy of each run that has one.
        churns: Share of test images with different predictions for each pair of runs (n, n), None where unknown.
        distances: Median over pairs of the relative distance of the weights, by step.
        separation: Median over pairs of the step at which the distance reaches 1 %, inf where it does not; None
            without snapshots.
        noise: Scale of the noise on the weights at step 0, if that is the source.
        equivalent: Scale of noise at step 0 that separates runs at the same step; 0 below and inf above the curve.
        runs: Number of runs.
    """

    source: str
    runs: int
    accuracies: tuple[float, ...] = ()
    churns: np.ndarray | None = None
    distances: Mapping[int, float] = field(default_factory=dict)
    separation: float | None = None
    noise: float | None = None
    equivalent: float | None = None

    @cached_property
    def spread(self) -> float | None:
        """Return the standard deviation of the accuracy."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    @cached_property
    def spread_interval(self) -> Interval | None:
        """Return the bootstrap interval of the standard deviation over runs."""
        return spread_interval(self.accuracies)

    @cached_property
    def churn(self) -> float | None:
        """Return the mean churn over pairs."""
        return None if self.churns is None else mean_churn(self.churns)

    @cached_property
    def churn_interval(self) -> Interval | None:
        """Return the bootstrap interval of the churn over runs."""
        return None if self.churns is None else churn_interval(self.churns)

    @property
    def distance(self) -> float | None:
        """Return the median distance at the last common snapshot."""
        return self.distances[max(self.distances)] if self.distances else None

    @cached_property
    def growth(self) -> DistanceGrowth | None:
        """Return the exponential growth of the median distance while it is below 1 %."""
        return growth_of(list(self.distances), list(self.distances.values()))


@dataclass(frozen=True)
class Ledger:
    """All entries and what a bootstrap over runs says of them.

    Attributes:
        entries: One per source.
        spreads: Pairs of sources whose spread of accuracy differs significantly.
        churns: Pairs whose churn does.
        too_few: Sources with too few runs for a claim.
        curve: Smallest and largest scale of noise at step 0 that separates runs.
    """

    entries: list[Entry]
    spreads: list[Pairing]
    churns: list[Pairing]
    too_few: list[str]
    curve: tuple[float, float] | None = None


@lru_cache(maxsize=1)
def ledger(table: RunTable) -> Ledger | None:
    """Return the ledger of a sweep that fixes the seeds of some sources, or None.

    Only finished runs count, grouped by fixed seeds, perturbation and mode.
    """
    configs = table.configs
    if not any(key.startswith(SEEDS) and value is not None for config in configs for key, value in config.items()):
        return None
    groups: dict[tuple, list[int]] = {}
    for run, config in enumerate(configs):
        if table.runs["status"].iloc[run] == "finished":
            groups.setdefault(treatment(config), []).append(run)
    groups = {key: runs for key, runs in groups.items() if len(runs) > 1}
    if len(groups) < 2:
        return None
    entries = _placed([_entry(table, runs) for runs in groups.values()])
    scales = sorted(entry.noise for entry in entries if entry.noise and _is_finite(entry.separation))
    return Ledger(
        entries,
        spreads=_differences([e for e in entries if len(e.accuracies) >= LEAST], _spreads_differ),
        churns=_differences([e for e in entries if e.churns is not None and e.runs >= LEAST], _churns_differ),
        too_few=[entry.source for entry in entries if len(entry.accuracies) < LEAST],
        curve=(scales[0], scales[-1]) if len(scales) > 1 else None,
    )


def _entry(table: RunTable, runs: list[int]) -> Entry:
    configs, folders = [table.configs[run] for run in runs], [Path(table.runs["folder"].iloc[run]) for run in runs]
    key = final_accuracy_key(table)
    accuracies = [] if key is None else [float(x) for x in table.final(key).iloc[runs].dropna()]
    distances = _distances(folders)
    steps = list(distances)
    pairs = all_pairs(len(folders))
    apart = [separation_step(steps, [distances[step][pair] for step in steps]) for pair in pairs]
    perturbed = perturbation_kind(configs[0]) == "noise" and configs[0]["perturbation.scope"] == "all"
    at_start = perturbed and int(configs[0]["perturbation.step"]) == 0
    return Entry(
        source=source_name(configs),
        runs=len(runs),
        accuracies=tuple(accuracies),
        churns=churn_matrix(folders),
        distances={step: float(np.median([distances[step][pair] for pair in pairs])) for step in steps},
        separation=float(np.median(apart)) if steps else None,
        noise=float(configs[0]["perturbation.scale"]) if at_start else None,
    )


def _distances(folders: list[Path]) -> dict[int, dict[tuple[int, int], float]]:
    """Return the relative distance of each pair at each snapshot, over all tensors except running statistics."""
    steps = common_steps(folders)
    if not steps:
        return {}
    state = read_state(snapshot_steps(folders[0])[steps[0]])
    names = [name for name, value in state.items() if value.is_floating_point() and not name.endswith(BUFFERS)]
    names = [name for name in names if "_metrics." not in name]
    return distances_by_step(folders, all_pairs(len(folders)), names)


def churn_matrix(folders: Sequence[Path]) -> np.ndarray | None:
    """Return the churn of every pair of runs (n, n), None where a run has not kept its predictions."""
    kept = [read_predictions(folder) for folder in folders]
    known = [each for each in kept if each is not None]
    if len(known) < len(kept) or any(not np.array_equal(known[0].labels, each.labels) for each in known):
        return None
    matrix = np.zeros((len(known), len(known)))
    for i, j in all_pairs(len(known)):
        matrix[i, j] = matrix[j, i] = churn(known[i], known[j])
    return matrix


def _differences(entries: Sequence[Entry], differ: Callable[[Entry, Entry, float], bool]) -> list[Pairing]:
    """Return the pairs of sources that differ at a Bonferroni-corrected level."""
    pairs = list(combinations(entries, 2))
    level = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    return [(a.source, b.source) for a, b in pairs if differ(a, b, level)]


def _spreads_differ(a: Entry, b: Entry, level: float) -> bool:
    return spreads_differ(a.accuracies, b.accuracies, level)


def _churns_differ(a: Entry, b: Entry, level: float) -> bool:
    assert a.churns is not None
    assert b.churns is not None
    return churns_differ(a.churns, b.churns, level)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _placed(entries: list[Entry]) -> list[Entry]:
    """Place every entry on the curve of separation step against the scale of noise at step 0."""
    points = sorted((e.noise, e.separation) for e in entries if e.noise and e.separation is not None)
    if sum(math.isfinite(step) for _, step in points) < 2:
        return entries
    scales = np.array([scale for scale, _ in points])
    steps = np.array([step for _, step in points])
    known = np.isfinite(steps)
    curve = decreasing(steps[known])
    return [
        replace(entry, equivalent=_scale(entry.separation, scales[known], curve))
        if entry.separation is not None and entry.noise is None
        else entry
        for entry in entries
    ]


def _scale(step: float, scales: np.ndarray, curve: np.ndarray) -> float:
    return scale_at(step, scales, curve) if math.isfinite(step) else 0.0
