"""Compare runs pair by pair: weights, predictions, features and loss barriers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from symbreak.callbacks.snapshot_files import snapshot_steps
from symbreak.sweeps.compare.barrier import barrier
from symbreak.sweeps.compare.channels import Group, channel_groups
from symbreak.sweeps.compare.features import cka, grams
from symbreak.sweeps.compare.matching import match, permuted
from symbreak.sweeps.compare.network import Probe, make_probe
from symbreak.sweeps.compare.predictions import (
    Predictions,
    binomial_interval,
    churn,
    error_consistency,
    independent_churn,
    read_predictions,
)
from symbreak.sweeps.compare.weights import (
    State,
    all_pairs,
    distances_by_step,
    final_file,
    growth_of,
    read_state,
    relative_distances,
)
from symbreak.sweeps.errors import UsageError


@dataclass(frozen=True)
class Member:
    """A run to compare."""

    name: str
    arm: str
    folder: Path
    seed: Any = None


@dataclass(frozen=True)
class PairResult:
    """Differences between two runs; None where unknown.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        arms: Their arms; equal for a pair within an arm.
        distance: Relative distance of the last weights: ||a - b|| / sqrt((||a||^2 + ||b||^2) / 2).
        matched: The same after the best matching of channels.
        churn: Share of test images with different predictions.
        churn_interval: Its 95 % binomial interval over images.
        independent_churn: Churn expected of independent errors at the runs' accuracies.
        error_consistency: Agreement beyond accuracy: Cohen's kappa of being correct.
        cka: Mean over layers of the debiased CKA of the features.
        cka_by_layer: The same, layer by layer.
        barrier: Loss barrier on the straight line between the last weights.
        matched_barrier: The same after matching.
        by_step: Relative distance at each snapshot.
        growth_rate: Slope of ln(distance) per step while it is below 1 %.
        growth_r2: R^2 of that fit.
        differs_from: First snapshot at which a prediction differs, for runs of one seed.
    """

    first: str
    second: str
    arms: tuple[str, str]
    distance: float | None = None
    matched: float | None = None
    churn: float | None = None
    churn_interval: tuple[float, float] | None = None
    independent_churn: float | None = None
    error_consistency: float | None = None
    cka: float | None = None
    cka_by_layer: dict[str, float] = field(default_factory=dict)
    barrier: float | None = None
    matched_barrier: float | None = None
    by_step: dict[int, float] = field(default_factory=dict)
    growth_rate: float | None = None
    growth_r2: float | None = None
    differs_from: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def compare_runs(members: Sequence[Member], examined: int, images: int) -> list[PairResult]:
    """Compare every pair by weights and predictions, and some pairs also by matching, barriers and features.

    Args:
        members: The runs.
        examined: Number of pairs to match, interpolate and compare by features, spread evenly over within and between
            arms.
        images: Test images for features, barriers and first differences.
    """
    pairs = all_pairs(len(members))
    results = [PairResult(members[i].name, members[j].name, (members[i].arm, members[j].arm)) for i, j in pairs]
    predictions = [read_predictions(member.folder) for member in members]
    results = [
        _predicted(result, predictions[i], predictions[j]) for result, (i, j) in zip(results, pairs, strict=True)
    ]
    comparable = _same_shapes(members)
    if len(comparable) < 2:
        return results
    probe = make_probe(members[comparable[0]].folder, images)
    results = _weighed(results, pairs, members, comparable, probe.parameters)
    chosen = set(spread([p for p in pairs if {*p} <= {*comparable}], lambda p: _is_within(members, p), examined))
    groups = channel_groups(probe.network) if chosen else []
    return [
        _examined(result, probe, groups, members[pair[0]], members[pair[1]]) if pair in chosen else result
        for result, pair in zip(results, pairs, strict=True)
    ]


def _is_within(members: Sequence[Member], pair: tuple[int, int]) -> bool:
    return members[pair[0]].arm == members[pair[1]].arm


def spread(pairs: Sequence[Any], is_within: Callable[[Any], bool], count: int) -> Iterator[Any]:
    """Yield up to ``count`` pairs, evenly spaced, half of them within arms if there are enough."""
    within = [pair for pair in pairs if is_within(pair)]
    between = [pair for pair in pairs if not is_within(pair)]
    first = min(len(within), max(count - len(between), (count + 1) // 2))
    for kind, number in ((within, first), (between, min(len(between), count - first))):
        for place in np.linspace(0, len(kind) - 1, number).round().astype(int) if number else ():
            yield kind[place]


def _predicted(result: PairResult, first: Predictions | None, second: Predictions | None) -> PairResult:
    if first is None or second is None or not np.array_equal(first.labels, second.labels):
        return result
    share = churn(first, second)
    return replace(
        result,
        churn=share,
        churn_interval=binomial_interval(share, len(first.labels)),
        independent_churn=independent_churn(first.accuracy, second.accuracy, first.count),
        error_consistency=error_consistency(first, second),
    )


def _same_shapes(members: Sequence[Member]) -> list[int]:
    """Return the positions of the runs whose last weights have the names and shapes of the first run with weights."""
    found, shapes = [], None
    for position, member in enumerate(members):
        file = final_file(member.folder)
        if file is None:
            continue
        own = {name: tuple(value.shape) for name, value in read_state(file).items()}
        shapes = own if shapes is None else shapes
        if own == shapes:
            found.append(position)
    return found


def _weighed(
    results: Sequence[PairResult],
    pairs: Sequence[tuple[int, int]],
    members: Sequence[Member],
    comparable: Sequence[int],
    names: Sequence[str],
) -> list[PairResult]:
    """Add the distances of the last weights, and the distances by step of runs with snapshots."""
    final = dict(zip(comparable, (load_last(members[i].folder) for i in comparable), strict=True))
    inside = all_pairs(len(comparable))
    last = relative_distances([final[i] for i in comparable], inside, names)
    kept = [i for i in comparable if snapshot_steps(members[i].folder)]
    by_step = distances_by_step([members[i].folder for i in kept], all_pairs(len(kept)), names)
    changed = []
    for result, (i, j) in zip(results, pairs, strict=True):
        if i not in final or j not in final:
            changed.append(result)
            continue
        distance = last[comparable.index(i), comparable.index(j)]
        steps = {}
        if i in kept and j in kept:
            steps = {step: found[kept.index(i), kept.index(j)] for step, found in by_step.items()}
        growth = growth_of(list(steps), list(steps.values()))
        changed.append(
            replace(
                result,
                distance=distance,
                by_step=steps,
                growth_rate=growth.rate if growth else None,
                growth_r2=growth.r2 if growth else None,
            )
        )
    return changed


def _examined(result: PairResult, probe: Probe, groups: list[Group], first: Member, second: Member) -> PairResult:
    """Add the values that need the network: matching, barriers, features and the first prediction that differs."""
    a, b = load_last(first.folder), load_last(second.folder)
    moved = permuted(b, groups, match(a, b, groups))
    layers = cka(grams(probe.features(a)), grams(probe.features(b)))
    hidden = list(layers.values())[:-1] or list(layers.values())
    return replace(
        result,
        matched=relative_distances([a, moved], [(0, 1)], probe.parameters)[0, 1],
        barrier=barrier(probe.loss, a, b),
        matched_barrier=barrier(probe.loss, a, moved),
        cka=float(np.mean(hidden)),
        cka_by_layer=layers,
        differs_from=_first_difference(probe, first, second) if first.seed == second.seed else None,
    )


def _first_difference(probe: Probe, first: Member, second: Member) -> int | None:
    """Return the first common snapshot at which a prediction differs, or None."""
    mine, theirs = snapshot_steps(first.folder), snapshot_steps(second.folder)
    for step in sorted(mine.keys() & theirs.keys()):
        classes = [probe.logits(read_state(path)).argmax(1) for path in (mine[step], theirs[step])]
        if not classes[0].equal(classes[1]):
            return step
    return None


def load_last(folder: Path) -> State:
    """Return the last weights of a run.

    Raises:
        UsageError: If the run has kept none.
    """
    file = final_file(folder)
    if file is None:
        raise UsageError(f"{folder} holds neither a snapshot nor a checkpoint")
    return read_state(file)
