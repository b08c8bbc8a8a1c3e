"""The noise ledger: the effect of each source of randomness on the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from symbreak.callbacks.snapshots import snapshot_steps
from symbreak.sweeps.compare.matching import BUFFERS
from symbreak.sweeps.compare.predictions import churn, read_predictions
from symbreak.sweeps.compare.weights import (
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
    mean_churn,
    spread_interval,
    spreads_differ,
)
from symbreak.sweeps.report.equivalent_noise import decreasing, scale_at
from symbreak.sweeps.report.figures.training import final_accuracy_key
from symbreak.sweeps.report.noise_sources import SEEDS
from symbreak.sweeps.report.table import RunTable


@dataclass(frozen=True)
class Entry:
    """Effect of one source of randomness on the result; None where unknown.

    Attributes:
        source: What differs between the runs.
        runs: Number of runs.
        accuracies: Final accuracy of each.
        spread: Standard deviation of the accuracy.
        spread_interval: Its bootstrap interval over runs.
        churn: Mean over pairs of runs of the share of test images with different predictions.
        churn_interval: Its bootstrap interval over runs.
        distance: Median over pairs of the relative distance of the last weights.
        growth: Exponential growth of the median distance over pairs while it is below 1 %.
        separation: Median over pairs of the step at which the distance reaches 1 %, inf where it does not.
        noise: Scale of the noise on the weights at step 0, if that is the source.
        equivalent: Scale of noise at step 0 that separates runs at the same step; 0 below and inf above the curve.
    """

    source: str
    runs: int
    accuracies: tuple[float, ...]
    spread: float | None
    spread_interval: Interval | None
    churn: float | None
    churn_interval: Interval | None
    distance: float | None
    growth: DistanceGrowth | None
    separation: float | None
    noise: float | None = None
    equivalent: float | None = None


@dataclass(frozen=True)
class Ledger:
    """All entries, and the pairs of sources whose spread of accuracy or churn differs significantly."""

    entries: list[Entry]
    different: list[str]
    too_few: list[str]
    curve: tuple[float, float] | None = None


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
            groups.setdefault(_treatment(config), []).append(run)
    groups = {treatment: runs for treatment, runs in groups.items() if len(runs) > 1}
    if len(groups) < 2:
        return None
    entries = _placed([_entry(table, runs) for runs in groups.values()])
    different, too_few = _differences(entries)
    scales = sorted(entry.noise for entry in entries if entry.noise and _is_finite(entry.separation))
    return Ledger(entries, different, too_few, (scales[0], scales[-1]) if len(scales) > 1 else None)


def _treatment(config: Mapping[str, Any]) -> tuple:
    """Return the key by which runs are grouped: fixed seeds, perturbation and mode."""
    fixed = tuple(key for key in config if key.startswith(SEEDS) and config[key] is not None)
    change = [str(value) for key, value in config.items() if key.startswith("perturbation.") and not _is_seed(key)]
    return fixed, tuple(change) if _kind(config) else (), config.get("determinism.mode")


def _is_seed(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "seed"


def _kind(config: Mapping[str, Any]) -> str | None:
    kind = config.get("perturbation.kind")
    return None if kind in (None, "none") else str(kind)


def source_name(configs: Sequence[Mapping[str, Any]]) -> str:
    """Name the difference between runs: active sources with varying seeds, and a perturbation."""
    first = configs[0]
    varied = [name for name, key in _sources(first) if len({_seed(config, key) for config in configs}) > 1]
    everything = [name for name, _ in _sources(first)]
    parts = ["all seeds" if len(varied) == len(everything) > 1 else " + ".join(varied)] if varied else []
    if _kind(first) and len({_seed(config, "perturbation.seed") for config in configs}) > 1:
        parts.append(_perturbation(first))
    if not parts and first.get("determinism.mode") not in (None, "strict"):
        parts.append(f"{first['determinism.mode']} kernels")
    return " + ".join(parts) or "nothing"


def _sources(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and seed of each source of randomness that the configuration has switched on."""

    def is_on(*names: str) -> bool:
        keys = (key for key in config if key.rsplit(".", 1)[-1] in names and not key.startswith(SEEDS))
        return any(config[key] not in (None, 0, False) for key in keys)

    on = {
        "init": True,
        "order": True,
        "augmentation": is_on("crop_padding", "flip", "cutout", "mixup"),
        "dropout": is_on("dropout", "disout"),
        "rounding": is_on("ulps"),
    }
    return [(name, f"{SEEDS}{name}") for name, is_there in on.items() if is_there]


def _seed(config: Mapping[str, Any], key: str) -> Any:
    seed = config.get(key)
    return config.get("seed_everything") if seed is None else seed


def _perturbation(config: Mapping[str, Any]) -> str:
    where = {"weight": "one weight", "layer": "one layer", "all": "all weights"}[str(config["perturbation.scope"])]
    what = {"bit": f"bit {config.get('perturbation.bit')} of", "ulp": "one ulp of"}.get(str(_kind(config)))
    what = what or f"noise of {float(config['perturbation.scale']):g} on"
    return f"{what} {where} at step {config['perturbation.step']}"


def _entry(table: RunTable, runs: list[int]) -> Entry:
    configs, folders = [table.configs[run] for run in runs], [Path(table.runs["folder"].iloc[run]) for run in runs]
    key = final_accuracy_key(table)
    accuracies = [] if key is None else [float(x) for x in table.final(key).iloc[runs].dropna()]
    matrix = churn_matrix(folders)
    distances = _distances(folders)
    steps = list(distances)
    pairs = all_pairs(len(folders))
    medians = [float(np.median([distances[step][pair] for pair in pairs])) for step in steps]
    apart = [separation_step(steps, [distances[step][pair] for step in steps]) for pair in pairs]
    perturbed = _kind(configs[0]) == "noise" and configs[0]["perturbation.scope"] == "all"
    at_start = perturbed and int(configs[0]["perturbation.step"]) == 0
    return Entry(
        source=source_name(configs),
        runs=len(runs),
        accuracies=tuple(accuracies),
        spread=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        spread_interval=spread_interval(accuracies),
        churn=None if matrix is None else mean_churn(matrix),
        churn_interval=None if matrix is None else churn_interval(matrix),
        distance=medians[-1] if medians else None,
        growth=growth_of(steps, medians),
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


def _differences(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Return the pairs of sources whose spread differs (Bonferroni-corrected), and the sources with too few runs."""
    enough = [entry for entry in entries if len(entry.accuracies) >= LEAST]
    pairs = list(combinations(enough, 2))
    level = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    different = [f"{a.source} and {b.source}" for a, b in pairs if spreads_differ(a.accuracies, b.accuracies, level)]
    return different, [entry.source for entry in entries if len(entry.accuracies) < LEAST]


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
