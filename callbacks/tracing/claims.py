"""Which slices of an operation's inputs determine a slice of its output.

A rule returns, for each output, a claim: by output axis, the input slices that govern it. Two output slices must be
equal if all that governs them is. An axis without an entry is not claimed: a spatial axis of a convolution, for
example, whose slices see different neighbours. `CLASSES` marks an axis whose slices differ because of integer inputs.
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
        axis: Its axis.
        repeat: Number of output slices that each one governs, one after the other.
    """

    tensor: Tensor
    axis: int
    repeat: int = 1


Governors = list[Slices]
Claim = dict[int, Governors]
CLASSES: Governors = []
Rule = Callable[[Call, Sequence[Tensor | None]], list[Claim]]


def slices(tensor: Tensor | None, axis: int) -> Governors:
    """Return the slices of a tensor, or nothing where there is none."""
    return [] if tensor is None else [Slices(tensor, axis)]


def groups_of(tensor: Tensor, axis: int, groups: int, outputs: int) -> Governors:
    """Return each group of channels as one slice, which governs all channels of its group in the output."""
    if groups == 1:
        return []
    grouped = tensor.unflatten(axis, (groups, -1))
    return [Slices(grouped, axis, outputs // groups)]
