"""Counting the rows of a tensor that differ in at least one bit: exactly, in memory of the size of the tensor."""

from functools import lru_cache

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import CHUNK_ELEMENTS, DEVICE_CHUNKS, checked, chunks, is_true, wide

PROBED = 4  # places of the first inner axis that are looked at before whole rows are
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def distinct_rows(rows: Tensor) -> Tensor:
    """Count the different rows, bit by bit: 0.0 and -0.0 differ, and NaNs of different payload do.

    The count is never a guess. On a CPU a hash of a few entries of each row comes first: if all of them differ, so do
    the rows. If none does, all rows are compared with the first. If that fails too, whole rows become the members of a
    set. On an accelerator, where looking at a result would stop the queue of kernels, whole rows are hashed and
    neighbours in the order of the hash compared; the count is NaN where two different rows share a 64-bit hash, which
    leaves it open.

    Args:
        rows: (n, ...), any dtype of 1, 2, 4 or 8 bytes.

    Returns:
        0-dim floating-point tensor with the whole number between 1 and n: |{bits of row i : i < n}|.

    Source:
        This project's own; the hash is linear with the multipliers of SplitMix64 (G. Steele, D. Lea and C. Flood,
        "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    bits = checked(rows, 1).detach().view(_INTEGERS[rows.element_size()])
    bits = bits.unsqueeze(-1) if bits.ndim < 2 else bits
    first = bits[(0,) * bits.ndim]
    if not is_true(first == first):  # an accelerator's values, and those under vmap, are not at hand
        return _distinct_by_order(bits)
    return torch.tensor(_distinct_by_value(bits), dtype=wide(bits.device))


def _distinct_by_value(bits: Tensor) -> int:
    """Count on the CPU, where branching on values needs no synchronisation."""
    stride = max(1, bits.shape[1] // PROBED)
    candidates = len(hash_rows(bits[:, ::stride]).unique())
    if candidates == len(bits):
        return candidates
    if candidates == 1 and all(torch.equal(part, bits[:1].expand_as(part)) for part in chunks(bits)):
        return 1
    return len({row.tobytes() for part in chunks(bits) for row in part.numpy()})


def hash_rows(bits: Tensor) -> Tensor:
    """One 64-bit integer per row: a linear combination modulo 2^64, the same in whatever order it is added up.

    The shift folds high bits onto low ones, since a high bit times a multiplier has little to tell rows apart.
    """
    half = 4 * bits.element_size()
    multipliers = _multipliers(bits[0].numel(), bits.device).view(bits.shape[1:])
    sums = []
    for part in chunks(bits):
        wide_part = part.to(torch.int64)
        sums.append(((wide_part ^ (wide_part >> half)) * multipliers).flatten(1).sum(1))
    return torch.cat(sums)


@lru_cache(maxsize=64)
def _multipliers(count: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(1, count + 1, device=device))


def _mix(x: Tensor) -> Tensor:
    """Integers to unrelated odd ones (the finaliser of SplitMix64, with arithmetic shifts)."""
    x = x * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return (x ^ (x >> 31)) | 1


def _distinct_by_order(bits: Tensor) -> Tensor:
    """Count where neighbours in the order of the hash differ; nothing here waits for the device."""
    keys, order = hash_rows(bits).sort()
    same_key = keys[1:] == keys[:-1]
    rows_at_once = max(1, max(CHUNK_ELEMENTS, bits.numel() // DEVICE_CHUNKS) // bits[0].numel())
    neighbours = zip(order[:-1].split(rows_at_once), order[1:].split(rows_at_once), strict=True)
    same_row = torch.cat([(bits[a] == bits[b]).flatten(1).all(1) for a, b in neighbours])
    count = (~same_row).sum().to(wide(bits.device)) + 1
    return torch.where((same_key & ~same_row).any(), float("nan"), count)
