"""Distances between the weights of runs, at the end and at every snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from symbreak.callbacks.checkpoint_files import unreadable
from symbreak.callbacks.snapshot_files import snapshot_steps
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.folder import latest_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
Pair = tuple[int, int]

BUFFERS = ("running_mean", "running_var")
"""Buffers to ignore, because their scale would dominate that of the weights."""
GROWN = 1e-2
"""Relative distance up to which a difference between two runs counts as growing."""


@dataclass(frozen=True)
class DistanceGrowth:
    """Least-squares line of ln(distance) against the step.

    Attributes:
        rate: Slope per step.
        r2: Squared correlation.
        first: First step of the fit.
        last: Last step of the fit.
    """

    rate: float
    r2: float
    first: int
    last: int


class UnreadableFileError(UsageError):
    """A file of weights that cannot be read; its message names the file and what is wrong.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def read_state(path: Path) -> State:
    """Return the tensors of a snapshot or a checkpoint by name; only tensors and plain values are unpickled.

    Raises:
        UnreadableFileError: If the file is neither, or holds no tensor.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the reader raise almost anything
        raise UnreadableFileError(path, unreadable(path, error)) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in dict(state).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UnreadableFileError(path, f"{path} holds no weights")
    return tensors


def final_file(folder: Path) -> Path | None:
    """Return the file of a run's last weights: its last snapshot, or its latest checkpoint, or None."""
    steps = snapshot_steps(folder)
    return steps[max(steps)] if steps else latest_checkpoint(folder)


def relative_distances(states: Sequence[State], pairs: Sequence[Pair], names: Sequence[str]) -> dict[Pair, float]:
    """Return ||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) of each pair; exactly 0 where all bits are equal.

    Args:
        states: Weights of each run.
        pairs: Pairs of positions in ``states``.
        names: Names of the tensors to include: the parameters.
    """
    import torch

    flat = [torch.cat([state[name].detach().flatten().float() for name in names]) for state in states]
    squares = [float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in flat]
    found = {}
    for i, j in pairs:
        distance = float(torch.linalg.vector_norm(flat[i] - flat[j], dtype=torch.float64))
        found[i, j] = distance / math.sqrt((squares[i] + squares[j]) / 2) if distance else 0.0
    return found


def common_steps(folders: Sequence[Path]) -> list[int]:
    """Return the steps at which every run has a snapshot."""
    steps = [set(snapshot_steps(folder)) for folder in folders]
    return sorted(set.intersection(*steps)) if steps else []


def distances_by_step(
    folders: Sequence[Path],
    pairs: Sequence[Pair],
    names: Sequence[str],
    read: Callable[[Path], State] = read_state,
) -> dict[int, dict[Pair, float]]:
    """Return the relative distance of each pair at every step at which all runs have a snapshot.

    Only one step's weights are in memory at a time.
    """
    found = {}
    for step in common_steps(folders):
        states = [read(snapshot_steps(folder)[step]) for folder in folders]
        found[step] = relative_distances(states, pairs, names)
    return found


def growth_of(steps: Sequence[int], distances: Sequence[float]) -> DistanceGrowth | None:
    """Fit exponential growth to a pair's distance, from the first step at which it is not 0 until it passes ``GROWN``.

    Returns:
        None if fewer than three steps lie in that range.
    """
    from scipy.stats import linregress

    some = [i for i, distance in enumerate(distances) if distance > 0]
    if not some:
        return None
    end = next((i for i in range(some[0], len(steps)) if distances[i] >= GROWN), len(steps))
    x = np.array(steps[some[0] : end], dtype=float)
    y = np.array(distances[some[0] : end])
    x, y = x[y > 0], y[y > 0]
    if len(x) < 3:
        return None
    line = linregress(x, np.log(y))
    return DistanceGrowth(float(line.slope), float(line.rvalue) ** 2, int(x[0]), int(x[-1]))  # pyright: ignore


def separation_step(steps: Sequence[int], distances: Sequence[float], level: float = GROWN) -> float:
    """Return the step at which a pair's distance first reaches a level, or inf.

    Between two snapshots the logarithm of the distance is interpolated linearly.
    """
    for i, distance in enumerate(distances):
        if distance < level:
            continue
        if i == 0 or distances[i - 1] <= 0:
            return float(steps[i])
        low, high = math.log(distances[i - 1]), math.log(distance)
        share = (math.log(level) - low) / (high - low)
        return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return math.inf


def all_pairs(count: int) -> list[Pair]:
    """Return all pairs of ``count`` runs."""
    return list(combinations(range(count), 2))
