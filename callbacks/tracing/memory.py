"""Records of all storages in use: partitions of their tensors, and the events that refined these partitions."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from symbreak.callbacks.tracing.partitions import Partition, partition

Causes = frozenset[int]
"""Numbers of the events that made slices differ."""
NOTHING: Causes = frozenset()
CLEAN_EVERY = 1000


@dataclass
class Record:
    """The record of one storage.

    Args:
        alive: Weak reference, which prevents reuse of the storage's address.
        known: Whether a traced operation wrote the storage.
        derived: Cached results computed from the storage's values, such as partitions, by view of the storage.
        causes: Causes by stride and size of an axis, which a transposed or sliced view shares with its base.
        written_in_part: The event of the last operation that wrote a part of the storage.
        parts: Causes by axis of views that are parts of the storage, such as the reduced gradients in a flat bucket.
    """

    alive: StorageWeakRef
    known: bool = False
    derived: dict[tuple, Any] = field(default_factory=dict)
    causes: dict[tuple[int, int], Causes] = field(default_factory=dict)
    written_in_part: Causes = NOTHING
    parts: dict[tuple, dict[int, Causes]] = field(default_factory=dict)

    def causes_of(self, tensor: Tensor, axis: int) -> Causes:
        """Return the causes of an axis; for a merged or split axis, the causes of all axes that it overlaps."""
        if axis in self.parts.get(view_key(tensor), ()):
            return self.parts[view_key(tensor)][axis]
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
    """The records of all storages seen; records of freed storages are removed periodically."""

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
        """Return the partition along one axis, cached until the next write."""
        return self.derive(tensor, axis, lambda: partition(tensor, axis))

    def derive(self, tensor: Tensor, what: Hashable, compute: Callable[[], Any]) -> Any:
        """Return a result computed from a tensor's values, cached until the next write to its storage."""
        derived = self.record(tensor).derived
        key = (*view_key(tensor), tensor.dtype, what)
        if key not in derived:
            derived[key] = compute()
        return derived[key]

    def write(self, tensor: Tensor, whole: bool) -> Record:
        """Invalidate the record of a tensor's storage after a write, and return it.

        Args:
            tensor: The tensor written to.
            whole: Whether the write replaces the whole storage.
        """
        found = self.record(tensor)
        found.derived.clear()
        found.known = True
        found.parts.pop(view_key(tensor), None)
        if whole:
            found.causes.clear()
            found.parts.clear()
            found.written_in_part = NOTHING
        return found

    def invalidate(self, tensor: Tensor) -> None:
        """Discard what was derived from a storage's values before they changed."""
        self.record(tensor).derived.clear()

    def explain(self, tensor: Tensor, causes: dict[int, Causes]) -> None:
        """Set the causes of a tensor's axes after a write that was not traced."""
        record = self.record(tensor)
        record.known = True
        if is_partial(tensor):
            record.parts[view_key(tensor)] = causes
        else:
            record.causes = {axis_key(tensor, axis): each for axis, each in causes.items()}
            record.written_in_part = NOTHING

    def _clean(self) -> None:
        self._records = {key: record for key, record in self._records.items() if not record.alive.expired()}
        self._clean_at = 2 * len(self._records) + CLEAN_EVERY


def is_partial(tensor: Tensor) -> bool:
    """Return whether a tensor is smaller than its storage."""
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()


def view_key(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Return what identifies a view of its storage."""
    return int(tensor.storage_offset()), tensor.shape, tensor.stride()


def axis_key(tensor: Tensor, axis: int) -> tuple[int, int]:
    """Return stride and size of an axis."""
    return tensor.stride(axis), tensor.shape[axis]
