"""Count the distinct rows of a tensor bit by bit, with memory proportional to the tensor's size."""

from functools import lru_cache

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import CHUNK_ELEMENTS, DEVICE_CHUNKS, checked, chunks, is_true, wide

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
    first = bits[(0,) * bits.ndim]
    if not is_true(first == first):  # on an accelerator or under vmap
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
    """Return one 64-bit hash per row: a linear combination modulo 2^64, independent of the order of summation.

    The shift folds high bits onto low ones: a high bit times a multiplier reaches few bits of the hash.
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
    """Mix integers into odd ones (the finaliser of SplitMix64, with arithmetic shifts)."""
    x = x * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return (x ^ (x >> 31)) | 1


def _distinct_by_order(bits: Tensor) -> Tensor:
    """Sort rows by hash and count where neighbours differ, without a synchronisation."""
    keys, order = hash_rows(bits).sort()
    same_key = keys[1:] == keys[:-1]
    rows_at_once = max(1, max(CHUNK_ELEMENTS, bits.numel() // DEVICE_CHUNKS) // bits[0].numel())
    neighbours = zip(order[:-1].split(rows_at_once), order[1:].split(rows_at_once), strict=True)
    same_row = torch.cat([(bits[a] == bits[b]).flatten(1).all(1) for a, b in neighbours])
    count = (~same_row).sum().to(wide(bits.device)) + 1
    return torch.where((same_key & ~same_row).any(), float("nan"), count)
