"""Features of a layer from its weight: the number of distinct ones, copies and dead ones."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.callbacks.functional import asymmetry, distinct_rows, weight_correlations
from symbreak.callbacks.functional.clones import equal_units
from symbreak.callbacks.functional.rank import effective_rank_of, numerical_rank_of, singular_values, stable_rank_of
from symbreak.callbacks.functional.unit_sets import Part

DEAD = 1e-6
"""A filter is dead if its norm is below this share of the layer's largest."""
LARGEST = 8192
"""Above this number of filters only exact duplicates are searched."""
BLOCK = 64
"""Number of filters compared or converted at once; larger blocks stay in the process after they are freed."""
MARGIN = 1e-4
"""Bound on the rounding error of a cosine in float32."""


@dataclass(frozen=True)
class LayerInspection:
    """Measurements of one layer's weight.

    Attributes:
        name: dotted name.
        shape: of the weight, (C_out, C_in / groups, ...).
        distinct_filters: filters that differ from each other in at least one bit.
        distinct_inputs: the same for the columns.
        copies: groups of filters that point in one direction, as indices, including bitwise equal ones.
        dead: filters whose norm is below ``DEAD`` times the largest.
        asymmetry: rms distance of the filters from their mean, relative to their rms norm.
        forward: mean correlation over pairs of filters, NaN where there is none.
        backward: the same over pairs of inputs.
        kernel: the same over pairs of kernels, NaN where a kernel is a single number.
        effective_rank: exp(entropy of the normalised singular values).
        stable_rank: ||W||_F^2 / ||W||_2^2.
        numerical_rank: number of singular values above 1e-4 times the largest.
    """

    name: str
    shape: tuple[int, ...]
    distinct_filters: int
    distinct_inputs: int
    copies: tuple[tuple[int, ...], ...]
    dead: tuple[int, ...]
    asymmetry: float
    forward: float
    backward: float
    kernel: float
    effective_rank: float
    stable_rank: float
    numerical_rank: int

    @property
    def largest_rank(self) -> int:
        """The largest possible rank of a weight of this shape."""
        return min(self.shape[0], math.prod(self.shape[1:]))

    @property
    def superfluous(self) -> int:
        """Number of filters that are dead or copies of a kept one."""
        return len(self.dead) + sum(len(group) - 1 for group in self.copies)


def inspect_layers(weights: Mapping[str, Tensor], similarity: float) -> list[LayerInspection]:
    """Measure every weight; filters whose cosine is at least ``similarity`` count as copies."""
    # Not items(): that would keep one weight in memory while the next is read.
    found = []
    for name in weights:
        found.append(inspect_layer(name, weights[name], similarity))
        _return_memory()
    return found


def _return_memory() -> None:
    """Give freed memory back to the system, of which glibc keeps over 100 MB after a large layer."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@torch.no_grad()
def inspect_layer(name: str, weight: Tensor, similarity: float) -> LayerInspection:
    """Measure one weight (C_out, C_in, ...) of two or more dimensions."""
    filters, inputs, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    values = singular_values(weight.flatten(1))  # first, because it needs the most memory
    correlations = weight_correlations(weight)
    pairs = (filters > 1, inputs > 1, taps > 1 and filters * inputs > 1)
    forward, backward, kernel = (float(c) if p else math.nan for c, p in zip(correlations, pairs, strict=True))
    dead = dead_filters(weight)
    return LayerInspection(
        name=name,
        shape=tuple(weight.shape),
        distinct_filters=int(distinct_rows(weight)),
        distinct_inputs=int(distinct_rows(weight.transpose(0, 1))),
        copies=tuple(copies(weight, similarity, dead)),
        dead=dead,
        asymmetry=float(asymmetry(weight)),
        forward=forward,
        backward=backward,
        kernel=kernel,
        effective_rank=float(effective_rank_of(values)),
        stable_rank=float(stable_rank_of(values)),
        numerical_rank=int(numerical_rank_of(values).nan_to_num()),
    )


def dead_filters(weight: Tensor) -> tuple[int, ...]:
    """Return the filters whose norm is below ``DEAD`` times the largest norm; all of them where all are 0."""
    rows = weight.flatten(1)
    buffer = torch.empty(BLOCK, rows.shape[1], dtype=torch.float64)  # new ones would not return to the system
    parts = (buffer[: len(part)].copy_(part) for part in rows.split(BLOCK))
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in parts])
    return tuple(torch.nonzero(norms <= DEAD * norms.max()).flatten().tolist())


def copies(weight: Tensor, similarity: float, dead: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Return groups of two or more filters that are copies of their first member.

    Args:
        weight: (C_out, ...).
        similarity: minimum cosine with the first member of a group.
        dead: filters to leave out.

    Returns:
        Indices, in order. Above ``LARGEST`` filters, only bitwise equal ones.
    """
    rows = weight.flatten(1)
    firsts = {index: index for index in sorted(set(range(len(rows))) - set(dead))}
    for group in equal_units([Part(("rows",), tuple(rows.shape))], len(rows), {"rows": rows}):
        if same := [index for index in group if index in firsts]:
            firsts |= dict.fromkeys(same, same[0])
    if len(rows) <= LARGEST:
        like = _nearest(rows, sorted(set(firsts.values())), similarity)
        firsts = {index: like[first] for index, first in firsts.items()}
    groups: dict[int, list[int]] = {}
    for index, first in firsts.items():
        groups.setdefault(first, []).append(index)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _nearest(rows: Tensor, heads: Sequence[int], similarity: float) -> dict[int, int]:
    """Return for each head the first earlier one that heads a group and has at least this cosine, or itself."""
    like = dict(zip(heads, heads, strict=True))
    blocks = [list(heads[start : start + BLOCK]) for start in range(0, len(heads), BLOCK)]
    for position, block in enumerate(blocks):
        units = _units(rows[block])
        near = torch.cat([units @ _units(rows[other]).T for other in blocks[: position + 1]], 1) >= similarity - MARGIN
        for number, (head, row) in enumerate(zip(block, near, strict=True), position * BLOCK):
            for other in torch.nonzero(row[:number]).flatten().tolist():
                first = heads[other]
                if like[first] == first and _cosine(rows[first], rows[head]) >= similarity:
                    like[head] = first
                    break
    return like


def _units(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(_units(a.double()) @ _units(b.double()))
