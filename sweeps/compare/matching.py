"""Match the channels of two networks of one architecture, layer by layer.

Permuting the channels of a layer together with everything that reads or writes them does not change the network's
function. Channels that are added (in a residual stream) share one permutation. Source: Ainsworth, Hayase, Srinivasa,
"Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023, weight matching.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from symbreak.sweeps.compare.channels import Group
from symbreak.sweeps.compare.weights import BUFFERS, State

ROUNDS = 20
"""Upper bound on passes over all groups; each pass but the last improves the match."""

Permutations = list[Tensor]


def match(reference: State, other: State, groups: list[Group]) -> Permutations:
    """Return for each group the permutation of the other network's channels that best matches the reference.

    The first pass, in the network's order, matches each group by the weights whose other axes are already matched, so
    that a permuted copy is found exactly. Further passes match each group given all others, while the inner product of
    the weights grows. The result is never worse than no permutation.
    """
    fixed = [torch.arange(group.size) for group in groups]
    start = _forward_pass(reference, other, groups)
    best = _ascend(reference, other, groups, start)
    if _inner(reference, permuted(other, groups, best)) >= _inner(reference, other):
        return best
    return _ascend(reference, other, groups, fixed)


def permuted(state: State, groups: list[Group], permutations: Permutations) -> State:
    """Return a state_dict with its channels in another order; the network computes the same function."""
    changed = dict(state)
    for group, order in zip(groups, permutations, strict=True):
        for name, axis in group.axes:
            changed[name] = changed[name].index_select(axis, order)
    return changed


def _forward_pass(reference: State, other: State, groups: list[Group]) -> Permutations:
    owner = {(name, axis): index for index, group in enumerate(groups) for name, axis in group.axes}
    orders = [torch.arange(group.size) for group in groups]
    settled: set[int] = set()
    for index, group in enumerate(groups):
        axes = [
            (name, axis)
            for name, axis in group.axes
            if all(owner.get((name, other_axis), -1) in {-1, *settled} for other_axis in (0, 1) if other_axis != axis)
        ]
        orders[index] = _assign(reference, other, groups, orders, index, axes)
        settled.add(index)
    return orders


def _ascend(reference: State, other: State, groups: list[Group], orders: Permutations) -> Permutations:
    orders = list(orders)
    value = _inner(reference, permuted(other, groups, orders))
    for _ in range(ROUNDS):
        before = value
        for index, group in enumerate(groups):
            trial = [*orders]
            trial[index] = _assign(reference, other, groups, orders, index, list(group.axes))
            if torch.equal(trial[index], orders[index]):
                continue
            new = _inner(reference, permuted(other, groups, trial))
            if new > value:
                orders, value = trial, new
        if value <= before:
            break
    return orders


def _assign(
    reference: State,
    other: State,
    groups: list[Group],
    orders: Permutations,
    index: int,
    axes: list[tuple[str, int]],
) -> Tensor:
    """Return the best permutation of one group given the present order of all other axes (Hungarian method)."""
    similarity = torch.zeros(groups[index].size, groups[index].size)
    for name, axis in axes:
        if name.endswith(BUFFERS):
            continue
        mine = _rows(reference[name], axis)
        theirs = _rows(_in_order(other, groups, orders, name, skip=(index, axis)), axis)
        similarity += mine @ theirs.T
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def _rows(tensor: Tensor, axis: int) -> Tensor:
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), -1).float()


def _in_order(other: State, groups: list[Group], orders: Permutations, name: str, skip: tuple[int, int]) -> Tensor:
    tensor = other[name]
    for number, group in enumerate(groups):
        for own, axis in group.axes:
            if own == name and (number, axis) != skip:
                tensor = tensor.index_select(axis, orders[number])
    return tensor


def _inner(first: State, second: State) -> float:
    return sum(float((first[name].double() * second[name].double()).sum()) for name in _weights(first))


def _weights(state: State) -> Iterator[str]:
    return (name for name, value in state.items() if value.is_floating_point() and not name.endswith(BUFFERS))
