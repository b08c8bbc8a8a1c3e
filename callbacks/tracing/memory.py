"""What is known about each storage in use: partitions of the tensors in it, and the events that made them finer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from symbreak.callbacks.tracing.partitions import Partition, partition

Causes = frozenset[int]
"""Numbers of the events because of which slices differ."""
NOTHING: Causes = frozenset()
CLEAN_EVERY = 1000


@dataclass
class Record:
    """One storage.

    Args:
        alive: Weak reference; while it is held, the storage's address is not used again.
        known: Whether a traced operation wrote the storage.
        derived: What was computed from its values, such as partitions, by view of the storage.
        causes: By stride and size of an axis, which a transposed or sliced view shares with its base.
        written_in_part: The event of an operation that last wrote to a part of the storage.
        views: Offset, shape and stride of parts that operations wrote, such as the gradients in a flat bucket.
    """

    alive: StorageWeakRef
    known: bool = False
    derived: dict[tuple, Any] = field(default_factory=dict)
    causes: dict[tuple[int, int], Causes] = field(default_factory=dict)
    written_in_part: Causes = NOTHING
    views: set[tuple[int, torch.Size, tuple[int, ...]]] = field(default_factory=set)

    def causes_of(self, tensor: Tensor, axis: int) -> Causes:
        """Return the causes of an axis; of a merged or split one, those of the axes that it overlaps."""
        stride, size = axis_key(tensor, axis)
        if (stride, size) in self.causes:
            return self.causes[stride, size] or self.written_in_part
        parts = [
            causes
            for (inner, count), causes in self.causes.items()
            if (stride <= inner and inner * count <= stride * size)
            or (inner <= stride and stride * size <= inner * count)
        ]
        return NOTHING.union(*parts) or self.written_in_part


class Memory:
    """The records of all storages seen, those of freed storages removed from time to time."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._clean_at = CLEAN_EVERY

    def record(self, tensor: Tensor) -> Record:
        """Return the record of the tensor's storage."""
        storage = tensor.untyped_storage()
        found = self._records.get(storage._cdata)
        if found is None:
            found = self._records[storage._cdata] = Record(StorageWeakRef(storage))
            if len(self._records) > self._clean_at:
                self._clean()
        return found

    def partition(self, tensor: Tensor, axis: int) -> Partition:
        """Return the partition along one axis, computed once after each write."""
        return self.derive(tensor, axis, lambda: partition(tensor, axis))

    def derive(self, tensor: Tensor, what: Hashable, compute: Callable[[], Any]) -> Any:
        """Return what is computed from a tensor's values, once after each write to its storage."""
        derived = self.record(tensor).derived
        key = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, what)
        if key not in derived:
            derived[key] = compute()
        return derived[key]

    def write(self, tensor: Tensor, whole: bool) -> Record:
        """Forget what a write has changed; return the record.

        Args:
            tensor: The tensor written to.
            whole: Whether nothing of the storage remains from before.
        """
        found = self.record(tensor)
        found.derived.clear()
        found.known = True
        if whole:
            found.causes.clear()
            found.views.clear()
            found.written_in_part = NOTHING
        return found

    def _clean(self) -> None:
        self._records = {key: record for key, record in self._records.items() if not record.alive.expired()}
        self._clean_at = 2 * len(self._records) + CLEAN_EVERY


def is_partial(tensor: Tensor) -> bool:
    """Whether a tensor is smaller than its storage."""
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()


def axis_key(tensor: Tensor, axis: int) -> tuple[int, int]:
    """Return stride and size of an axis."""
    return tensor.stride(axis), tensor.shape[axis]
