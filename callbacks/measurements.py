"""Buffer measured values on the device, transfer them together, and average them over layers."""

from collections.abc import Sequence

import torch
from torch import Tensor

Row = dict[str, float]
Measures = dict[str, Tensor]


class DeviceBuffer:
    """Collect 0-dim tensors by step and copy them to the host in one transfer.

    :meth:`add` does not synchronise with the device; :meth:`drain` does once.
    """

    def __init__(self) -> None:
        self._records: list[tuple[int, tuple[str, ...], Tensor]] = []

    def __len__(self) -> int:
        return len(self._records)

    def add(self, step: int, keys: Sequence[str], values: Sequence[Tensor]) -> None:
        """Add one row: ``values`` are 0-dim tensors of any dtype, one for each key."""
        if values:
            device = values[0].device
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._records.append((step, tuple(keys), torch.stack([value.to(device, dtype) for value in values])))

    def drain(self) -> list[tuple[int, Row]]:
        """Empty the buffer and return its rows as Python numbers, oldest first."""
        records, self._records = self._records, []
        if not records:
            return []
        values = torch.cat([tensor for _, _, tensor in records]).tolist()
        rows, start = [], 0
        for step, keys, tensor in records:
            rows.append((step, dict(zip(keys, values[start : start + len(tensor)], strict=True))))
            start += len(tensor)
        return rows


def layer_means(row: Row) -> Row:
    """Return the mean over layers of each measure, as ``<family>/<measure>``."""
    values: dict[str, list[float]] = {}
    for key, value in row.items():
        values.setdefault("/".join(key.split("/")[:2]), []).append(value)
    return {key: sum(group) / len(group) for key, group in values.items()}
