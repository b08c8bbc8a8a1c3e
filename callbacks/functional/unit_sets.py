"""Sets of interchangeable units and their weights."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The weights of a set of units: one tensor cut along an axis, or one tensor per unit.

    Attributes:
        names: name of the tensor, or of one tensor per unit.
        shape: shape to view the tensor in, with one axis that indexes units; empty for one tensor per unit.
        axis: the axis that indexes units.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] = ()
    axis: int = 0

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the weights of each unit, (units, ...)."""
        if not self.shape:
            return torch.stack([tensors[name].detach() for name in self.names])
        return tensors[self.names[0]].detach().reshape(self.shape).movedim(self.axis, 0)


@dataclass
class Units:
    """A set of units that can be permuted without changing the network's function.

    Attributes:
        name: layer that computes the units.
        kind: ``channels``, ``neurons``, ``heads``, ``experts`` or ``ranks``.
        count: number of units.
        incoming: incoming weights, biases and normalisation parameters.
        outgoing: outgoing weights: columns of the next layers, or rows of a router.
        open: whether a use of the units could not be traced, or the units are the network's output.
    """

    name: str
    kind: str
    count: int
    incoming: list[Part] = field(default_factory=list)
    outgoing: list[Part] = field(default_factory=list)
    open: bool = False
    merged: "Units | None" = None

    def root(self) -> "Units":
        """Return the set that this one was merged into, or itself."""
        return self.merged.root() if self.merged else self

    def merge(self, other: "Units") -> "Units":
        """Merge two sets whose units are added elementwise."""
        a, b = self.root(), other.root()
        if a is not b:
            a.incoming += [part for part in b.incoming if part not in a.incoming]
            a.outgoing += [part for part in b.outgoing if part not in a.outgoing]
            a.open |= b.open
            b.merged = a
        return a
