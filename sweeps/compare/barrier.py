"""The loss barrier on the straight line between two networks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from symbreak.sweeps.compare.weights import State

INNER = (0.25, 0.5, 0.75)
"""Interior points of the line at which the loss is evaluated."""


def interpolate(first: State, second: State, share: float) -> State:
    """Return (1 - share) * first + share * second of all floating-point tensors, running statistics included."""
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value
        for name, value in first.items()
    }


def barrier(loss: Callable[[State], float], first: State, second: State) -> float:
    """Return the largest excess of the loss over the straight line between the losses of the two ends, at least 0."""
    start, end = loss(first), loss(second)
    excess = (loss(interpolate(first, second, s)) - (1 - s) * start - s * end for s in INNER)
    return max(0.0, *excess)
