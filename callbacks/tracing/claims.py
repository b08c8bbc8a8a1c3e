"""Claims: the input slices that determine each output slice of an operation.

A rule returns one claim per output: a dictionary from output axis to the input slices that govern it. Two output slices
must be equal if all input slices that govern them are equal. An axis without an entry is not claimed, such as a spatial
axis of a convolution, whose slices have different neighbours. `CLASSES` marks an axis whose slices differ because of
integer inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from symbreak.callbacks.tracing.calls import Call


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of an input along an axis.

    Args:
        tensor: The input.
        axis: Axis of the input.
        repeat: Number of consecutive output slices that each input slice governs.
    """

    tensor: Tensor
    axis: int
    repeat: int = 1


Governors = list[Slices]
Claim = dict[int, Governors]
CLASSES: Governors = []
Rule = Callable[[Call, Sequence[Tensor | None]], list[Claim]]


def slices(tensor: Tensor | None, axis: int) -> Governors:
    """Return the slices of a tensor, or an empty list for None."""
    return [] if tensor is None else [Slices(tensor, axis)]


def groups_of(tensor: Tensor, axis: int, groups: int, outputs: int) -> Governors:
    """Return each group of input channels as one slice, which governs all output channels of that group."""
    if groups == 1:
        return []
    grouped = tensor.unflatten(axis, (groups, -1))
    return [Slices(grouped, axis, outputs // groups)]
