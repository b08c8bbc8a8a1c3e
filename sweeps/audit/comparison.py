"""Compare the bits of a result over repetitions (repeatable) and over its channels (symmetric)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.callbacks.functional import distinct_rows
from symbreak.callbacks.tracing.partitions import bits, ulps
from symbreak.sweeps.audit.operations import Run


@dataclass(frozen=True)
class Comparison:
    """Bitwise comparison of repeated computations of one result.

    Args:
        repeatable: Whether every repetition gave the same bits.
        symmetric: Whether all channels were bitwise equal in every repetition.
        channels: Number of output channels.
        distinct: Largest number of distinct channels in a repetition.
        asymmetry_ulps: Largest difference of a channel from the first, in ulps of the largest entry.
        repeat_ulps: Largest difference of a repetition from the first, in ulps of the largest entry.
    """

    repeatable: bool
    symmetric: bool
    channels: int
    distinct: int
    asymmetry_ulps: float
    repeat_ulps: float


def compare(outputs: Sequence[Tensor]) -> Comparison:
    """Compare bits across repetitions and across channels.

    Args:
        outputs: The same result, computed at least twice, with the channels on axis 0.
    """
    first = outputs[0]
    others = [output for output in outputs[1:] if not torch.equal(bits(first), bits(output))]
    distinct = max(int(distinct_rows(output.cpu())) for output in [first, *others])
    return Comparison(
        repeatable=not others,
        symmetric=distinct == 1,
        channels=len(first),
        distinct=distinct,
        asymmetry_ulps=0.0 if distinct == 1 else max(ulps(output, output[:1]) for output in [first, *others]),
        repeat_ulps=max((ulps(first, output) for output in others), default=0.0),
    )


def repeat(build: Callable[[], Run], repeats: int) -> list[Tensor]:
    """Compute a result ``1 + repeats`` times.

    The first half of the repetitions reuses the first run's inputs; the others build new ones at other addresses, with
    other work and live allocations in between.

    Args:
        build: Makes the inputs and returns the call that computes the result.
        repeats: At least 2.
    """
    run = build()
    outputs = [run() for _ in range(1 + repeats // 2)]
    allocations = []  # kept, so that later inputs lie at other addresses
    for turn in range(repeats - repeats // 2):
        allocations.append(_other_work(outputs[0].device, turn))
        outputs.append(build()())
    return outputs


def _other_work(device: torch.device, turn: int) -> list[Tensor]:
    """Allocate tensors and multiply matrices of odd sizes on the device before the next repetition."""
    matrix = torch.ones(33 + turn, 65, device=device)
    return [torch.empty(1013 * (turn + 1), device=device), matrix @ matrix.T]
