"""Count the distinct rows of a tensor bit by bit, with memory proportional to the tensor's size."""

import math
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import (
    DEVICE_ELEMENTS,
    DIRECT_ELEMENTS,
    checked,
    chunks,
    is_direct,
    is_readable,
    wide,
)

Number = TypeVar("Number", float, Tensor)

PROBED = 4  # indices of the first inner axis that are compared before whole rows
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def distinct_rows(rows: Tensor) -> Tensor:
    """Count the distinct rows bit by bit: 0.0 and -0.0 differ, and so do NaNs with different payloads.

    The count is exact or NaN. On a CPU, a few entries of each row are hashed first: if all hashes differ, all rows
    differ. If all hashes are equal, every row is compared with the first. Otherwise whole rows are put into a set. On
    an accelerator, where reading a result would synchronise, whole rows are hashed and sorted by hash, and neighbours
    are compared; the count is NaN if two different neighbours have the same 64-bit hash.

    Args:
        rows: (n, ...), any dtype of 1, 2, 4 or 8 bytes.

    Returns:
        0-dim floating-point tensor with an integer value between 1 and n, |{bits of row i : i < n}|, or NaN.

    Source:
        This project's own; the hash is linear with the multipliers of SplitMix64 (G. Steele, D. Lea and C. Flood,
        "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    bits = checked(rows, 1).detach().view(_INTEGERS[rows.element_size()])
    bits = bits.unsqueeze(-1) if bits.ndim < 2 else bits
    if not is_readable(bits):  # on an accelerator or under vmap
        return _distinct_by_order(bits)
    return torch.tensor(_distinct_by_value(bits), dtype=wide(bits.device))


def _distinct_by_value(bits: Tensor) -> int:
    """Count on the CPU, where branching on values needs no synchronisation."""
    if bits.numel() > DIRECT_ELEMENTS:
        stride = max(1, bits.shape[1] // PROBED)
        candidates = _kinds(bits[:, ::stride])
        if candidates == len(bits):
            return candidates
        if candidates == 1 and torch.equal(bits[1:], bits[:-1]):
            return 1
    return _kinds(bits)


def _kinds(bits: Tensor) -> int:
    kinds: set[bytes] = set()
    for part in chunks(bits):
        rows = part.contiguous().numpy().reshape(len(part), -1)
        kinds.update(rows.view(f"V{rows.shape[1] * rows.itemsize}").ravel().tolist())
    return len(kinds)


def hash_rows(bits: Tensor) -> Tensor:
    """Return one 64-bit hash per row: a linear combination modulo 2^64, independent of the order of summation."""
    return torch.cat([row_keys(halves(part)[None], 1).squeeze(0) for part in chunks(bits)])


def halves(bits: Tensor) -> Tensor:
    """Return contiguous integers split into 16 bits each: a high bit times a multiplier reaches few bits of a hash."""
    if bits.element_size() == 1:
        return bits
    return bits.reshape(-1).contiguous().view(torch.int16).view(*bits.shape[:-1], -1)


def row_keys(x: Tensor, dim: int) -> Tensor:
    """Return the hash of each slice along ``dim`` of integers (L, ...), for each of the L tensors: (L, n)."""
    axes = [axis for axis in range(1, x.ndim) if axis != dim]
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    multipliers = _multipliers(math.prod(shape), x.device).view(shape)
    return (x * multipliers).sum(axes) if axes else (x * multipliers)


@lru_cache(maxsize=64)
def _multipliers(count: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(1, count + 1, device=device))


def _mix(x: Tensor) -> Tensor:
    """Mix integers into odd ones (the finaliser of SplitMix64, with arithmetic shifts)."""
    x = x * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return (x ^ (x >> 31)) | 1


def _distinct_by_order(bits: Tensor) -> Tensor:
    """Sort rows by hash and count where neighbours differ, without a synchronisation."""
    rows = bits.reshape(1, len(bits), -1)
    if is_direct(rows):
        return count_of(*(each.squeeze(0) for each in neighbour_counts(rows, 1)))
    keys, order = hash_rows(bits).sort()
    at_once = max(1, DEVICE_ELEMENTS // rows.shape[2])
    pairs = zip(order[:-1].split(at_once), order[1:].split(at_once), strict=True)
    differ = sum((rows[0][a] != rows[0][b]).any(1).sum() for a, b in pairs)
    return count_of(torch.as_tensor(differ), (keys[1:] != keys[:-1]).sum())


def neighbour_counts(bits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return how many slices along ``dim`` differ from the one before, in the order of their hashes, (L,).

    Args:
        bits: integers (L, ..., K), L tensors.
        dim: axis of the slices, not the last one.

    Returns:
        The number of slices that differ, and the number whose hashes differ; unequal if hashes collide.
    """
    keys, order = row_keys(halves(bits), dim).sort(1)
    index = order.view([order.shape[axis > 0] if axis in (0, dim) else 1 for axis in range(bits.ndim)])
    ordered = bits.gather(dim, index.expand_as(bits))
    count = bits.shape[dim] - 1
    differ = ordered.narrow(dim, 1, count) != ordered.narrow(dim, 0, count)
    other = [axis for axis in range(1, bits.ndim) if axis != dim]
    return differ.any(other).sum(1), (keys[:, 1:] != keys[:, :-1]).sum(1)


def count_of(differ: Number, hashed: Number) -> Number:
    """Return the number of distinct rows from `neighbour_counts`: exact, or NaN if hashes collide."""
    if isinstance(differ, Tensor):
        return torch.where(differ == hashed, (differ + 1).to(wide(differ.device)), float("nan"))
    return differ + 1 if differ == hashed else float("nan")


def slice_counts(weights: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the values of `neighbour_counts` for tensors (L, ...) of any dtype; on a CPU by comparing values."""
    bits = weights.view(_INTEGERS[weights.element_size()])
    bits = bits if bits.ndim > 3 else bits[..., None]
    if bits.device.type != "cpu" and is_direct(bits):
        return neighbour_counts(bits, dim)
    if bits.device.type == "cpu":
        counts = torch.tensor([_distinct_by_value(each.transpose(0, dim - 1)) - 1 for each in bits])
    else:
        counts = torch.stack([distinct_rows(each.transpose(0, dim - 1)) - 1 for each in bits])
    return counts, counts
