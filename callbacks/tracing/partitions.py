"""Partition the slices of a tensor into groups that are equal bit by bit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from symbreak.callbacks.functional.distinct import hash_rows

MAX_SLICES = 4096
PROBES = 3
"""Entries per axis of a slice that are compared before whole slices."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of equal slices along one axis.

    Args:
        first: (n,), for each slice the index of the first slice that equals it.
    """

    first: np.ndarray

    @classmethod
    def of_labels(cls, labels: np.ndarray) -> Partition:
        """Return the partition in which slices with equal labels (n,) or rows of labels (n, k) are equal."""
        _, index, inverse = np.unique(labels, axis=0, return_index=True, return_inverse=True)
        return cls(index[inverse.reshape(-1)])

    @classmethod
    def discrete(cls, count: int) -> Partition:
        """Return the partition in which all slices differ."""
        return cls(np.arange(count))

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return int((self.first == np.arange(len(self.first))).sum())

    @property
    def is_discrete(self) -> bool:
        """Return whether all slices differ."""
        return self.groups == len(self.first)

    @property
    def is_trivial(self) -> bool:
        """Return whether all slices are equal."""
        return not self.first.any()

    def refine(self, other: Partition) -> Partition:
        """Return the common refinement: slices are equal if they are equal in both partitions."""
        if self.is_trivial or other.is_discrete:
            return other
        if other.is_trivial or self.is_discrete:
            return self
        return Partition.of_labels(self.first.astype(np.int64) * len(self.first) + other.first)

    def repeat(self, count: int) -> Partition:
        """Return the partition with each slice repeated ``count`` times in a row."""
        return self if count == 1 else Partition.of_labels(np.repeat(self.first, count))

    def separated(self, allowed: Partition) -> np.ndarray:
        """Return a mask (n,) of the slices that differ from the first slice of their group in ``allowed``."""
        return self.first != self.first[allowed.first]


def partition(tensor: Tensor, axis: int) -> Partition:
    """Return the groups of bitwise-equal slices of a tensor along an axis.

    0.0 and -0.0 differ; NaNs with the same payload are equal. Candidate groups come from a few entries of each slice.
    Each slice is then compared with the first of its group, in one pass. If a comparison fails, candidates come from
    64-bit hashes of whole slices and are confirmed in the same way: a collision cannot merge two groups.

    Args:
        tensor: Any dtype, with at most `MAX_SLICES` slices.
        axis: The axis that indexes the slices.
    """
    count = tensor.shape[axis]
    if tensor.stride(axis) == 0 or tensor.numel() == 0 or count == 1:
        return Partition(np.zeros(count, dtype=np.int64))
    rows = bits(tensor.detach()).movedim(axis, 0)
    rows = rows.unsqueeze(-1) if rows.ndim < 2 else rows
    proposed = Partition.of_labels(_probe(rows))
    if proposed.is_discrete or _is_confirmed(rows, proposed):
        return proposed
    proposed = Partition.of_labels(hash_rows(rows).cpu().numpy())
    if proposed.is_discrete or _is_confirmed(rows, proposed):
        return proposed
    return Partition.of_labels(rows.flatten(1).cpu().numpy())


def bits(tensor: Tensor) -> Tensor:
    """Return the tensor's bits as integers of the same size: 0.0 and -0.0 differ, bitwise equal NaNs are equal."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_INTEGERS[tensor.element_size()])


def _probe(rows: Tensor) -> np.ndarray:
    for axis in range(1, rows.ndim):
        size = rows.shape[axis]
        step = max(1, size // PROBES)
        rows = rows.narrow(axis, step // 2, size - step // 2)[(slice(None),) * axis + (slice(None, None, step),)]
    values = rows.flatten(1).cpu().numpy().astype(np.int64)
    return (values * _multipliers(values.shape[1])).sum(1) if values.shape[1] > 1 else values[:, 0]


def _multipliers(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**62), 2**62, count, dtype=np.int64) | 1


def _is_confirmed(rows: Tensor, proposed: Partition) -> bool:
    """Return whether every slice equals the first of its group."""
    if proposed.is_trivial:
        return bool((rows == rows[:1]).all())
    others = np.flatnonzero(proposed.first != np.arange(len(proposed.first)))
    a, b = (torch.from_numpy(index).to(rows.device) for index in (others, proposed.first[others]))
    return bool((rows.index_select(0, a) == rows.index_select(0, b)).all())


def refinement(partitions: list[Partition], count: int) -> Partition:
    """Return the common refinement of partitions of ``count`` slices; all slices are equal without partitions."""
    return reduce(Partition.refine, partitions, Partition(np.zeros(count, dtype=np.int64)))


def ulps(a: Tensor, b: Tensor) -> float:
    """Return the largest difference between two tensors of equal shape, in units of :func:`spacing` of the first."""
    return (a.double() - b.double()).abs().max().item() / spacing(a)


def spacing(tensor: Tensor) -> float:
    """Return the spacing of floating-point numbers at the tensor's largest magnitude: one ulp of its largest entry.

    Per-entry ulps do not measure rounding error: near zero, where addends cancel, any error is many ulps.
    """
    info = torch.finfo(tensor.dtype)
    exponent = math.frexp(tensor.abs().max().item())[1] - 1
    return max(math.ldexp(info.eps, exponent), info.smallest_normal * info.eps)


def separation_ulps(tensor: Tensor, axis: int, found: Partition, allowed: Partition) -> float | None:
    """Return the largest difference between slices that should be equal, in ulps; None for integers."""
    if not tensor.is_floating_point():
        return None
    indices = np.flatnonzero(found.separated(allowed))
    a, b = (torch.from_numpy(index).to(tensor.device) for index in (indices, allowed.first[indices]))
    rows = tensor.detach()
    return (rows.index_select(axis, a).double() - rows.index_select(axis, b).double()).abs().max().item() / spacing(
        rows
    )
