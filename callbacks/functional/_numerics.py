"""Floating-point care shared by the measures: precision, range and memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**19  # large enough to make the overhead of calls small, small enough for the cache
DEVICE_CHUNKS = 4  # an accelerator takes few, large kernels
SAFE_SQUARES = (1e-12, 1e30)
"""Range of float32 sums of squares in which no significant term under- or overflows."""


def checked(x: Tensor, ndim: int) -> Tensor:
    """Return ``x``, which must have an entry and at least ``ndim`` dimensions.

    Raises:
        ValueError: if it has not.
    """
    if x.ndim < ndim or not x.numel():
        raise ValueError(f"expected at least {ndim} dimension(s) and one entry, got shape {tuple(x.shape)}")
    return x


def wide(device: torch.device) -> torch.dtype:
    """Return the dtype in which few numbers are added up: float64, or float32 where the device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_single(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64; anything narrower, or an integer, as float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def power_of_two_scale(x: Tensor, dim: int | None = None) -> Tensor:
    """2^-e such that ``x`` * 2^-e lies in [-1, 1]: exact to multiply by, and squares no longer overflow.

    Args:
        x: floating-point values of any shape.
        dim: the axis along which numbers share a scale (kept as size 1); None for one scale of all.

    Returns:
        Powers of two in float32 or float64; 1 for zeros, infinities and NaN.
    """
    smallest, largest = torch.aminmax(x) if dim is None else (x.amin(dim, True), x.amax(dim, True))
    size = torch.maximum(at_least_single(largest), -at_least_single(smallest))
    limit = 1022 if size.dtype == torch.float64 else 126  # beyond it 2^e is no normal number
    return torch.ldexp(torch.ones_like(size), -torch.frexp(size).exponent.clamp(-limit, limit))


def square_sum(x: Tensor) -> Tensor:
    """Sum of x^2 over all entries, 0-dim, in the wide dtype; without a temporary where ``x`` is contiguous."""
    flat = x.reshape(-1)
    return torch.dot(flat, flat).to(wide(x.device))


def chunks(x: Tensor, dim: int = 0) -> Iterator[Tensor]:
    """Return views of ``x`` along ``dim`` that are small enough to work on with temporaries of their own size."""
    smallest = CHUNK_ELEMENTS if x.device.type == "cpu" else max(CHUNK_ELEMENTS, x.numel() // DEVICE_CHUNKS)
    per_index = max(1, x.numel() // x.shape[dim])
    return iter(x.split(max(1, smallest // per_index), dim))


def is_true(condition: Tensor) -> bool:
    """Return ``bool(condition)`` if readable without a synchronisation (CPU, not under vmap), else False."""
    if condition.device.type != "cpu":
        return False
    try:
        return bool(condition)
    except RuntimeError:  # vmap has no single value to give
        return False
