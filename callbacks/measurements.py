"""Buffer statistics on the device, transfer them together, and average measures over layers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Row = dict[str, float]
Found = tuple[Sequence[str], Sequence[Tensor], Callable[..., Row]]
"""Layers, statistics with an entry per layer, and the function of one layer's numbers that returns its measures."""


class DeviceBuffer:
    """Collect statistics by step and copy them to the host in one transfer.

    :meth:`add` does not synchronise with the device; :meth:`drain` does once.
    """

    def __init__(self) -> None:
        self._records: list[tuple[int, list[Found], list[int], Tensor]] = []

    def __len__(self) -> int:
        return len(self._records)

    def add(self, step: int, found: Sequence[Found]) -> None:
        """Add what was found at one step; tensors of any dtype, those of a single layer of any size."""
        values = [value for _, tensors, _ in found for value in tensors]
        if values:
            device = values[0].device
            dtype = torch.float32 if device.type == "mps" else torch.float64
            flat = torch.cat([_flat(value, device, dtype) for value in values])
            sizes = [sum(value.numel() for value in tensors) for _, tensors, _ in found]
            kept: list[Found] = [(layers, (), measures) for layers, _, measures in found]
            self._records.append((step, kept, sizes, flat))

    def drain(self) -> list[tuple[int, dict[str, Row]]]:
        """Empty the buffer and return for each step the measures of each layer, oldest first."""
        records, self._records = self._records, []
        if not records:
            return []
        values = torch.cat([flat for *_, flat in records]).tolist()
        rows, start = [], 0
        for step, found, sizes, _ in records:
            row: dict[str, Row] = {}
            for (layers, _, measures), size in zip(found, sizes, strict=True):
                block = values[start : start + size]
                start += size
                for index, layer in enumerate(layers):
                    row.setdefault(layer, {}).update(measures(*block[index :: len(layers)]))
            rows.append((step, row))
        return rows


def _flat(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    value = value if value.ndim == 1 else value.reshape(-1)
    return value if value.dtype == dtype and value.device == device else value.to(device, dtype)


def layer_means(row: Row) -> Row:
    """Return the mean over layers of each measure, as ``<family>/<measure>``."""
    values: dict[str, list[float]] = {}
    for key, value in row.items():
        values.setdefault("/".join(key.split("/")[:2]), []).append(value)
    return {key: sum(group) / len(group) for key, group in values.items()}


def as_it_is(number: float) -> Row:
    """Return a measure whose layer is its whole key."""
    return {"": number}
