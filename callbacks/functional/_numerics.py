"""Floating-point helpers shared by the measures: precision, range and memory."""

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**19  # large enough to amortise call overhead, small enough for the cache
DEVICE_ELEMENTS = 2**24  # on an accelerator, which is faster with few, large kernels
DIRECT_ELEMENTS = 2**16  # up to this size a CPU takes longer to decide what to leave out than to compute in float64
SAFE_SQUARES = (1e-12, 1e30)
"""Range of float32 sums of squares in which no significant term under- or overflows."""

_KEPT = threading.local()


def checked(x: Tensor, ndim: int) -> Tensor:
    """Return ``x`` after checking that it is not empty and has at least ``ndim`` dimensions.

    Raises:
        ValueError: if ``x`` is empty or has fewer dimensions.
    """
    if x.ndim < ndim or not x.numel():
        raise ValueError(f"expected at least {ndim} dimension(s) and one entry, got shape {tuple(x.shape)}")
    return x


def wide(device: torch.device) -> torch.dtype:
    """Return the dtype of small accumulators: float64, or float32 on devices without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_single(x: Tensor) -> Tensor:
    """Return float32 and float64 tensors unchanged; cast narrower and integer dtypes to float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def power_of_two_scale(x: Tensor, dim: int | None = None) -> Tensor:
    """Return 2^-e such that ``x`` * 2^-e lies in [-1, 1]: the product is exact and its squares do not overflow.

    Args:
        x: floating-point values of any shape.
        dim: the axis along which entries share a scale (kept with size 1); None for one scale for all entries.

    Returns:
        Powers of two in float32 or float64; 1 for zeros, infinities and NaN.
    """
    smallest, largest = torch.aminmax(x) if dim is None else (x.amin(dim, True), x.amax(dim, True))
    size = torch.maximum(at_least_single(largest), -at_least_single(smallest))
    limit = 1022 if size.dtype == torch.float64 else 126  # larger exponents give subnormal powers
    return torch.ldexp(torch.ones_like(size), -torch.frexp(size).exponent.clamp(-limit, limit))


def square_sum(x: Tensor) -> Tensor:
    """Return the sum of x^2 over all entries, 0-dim, in the wide dtype; contiguous ``x`` needs no temporary."""
    flat = x.reshape(-1)
    return torch.dot(flat, flat).to(wide(x.device))


def chunks(x: Tensor, dim: int = 0) -> Iterator[Tensor]:
    """Split ``x`` along ``dim`` into views small enough for temporaries of the same size."""
    largest = CHUNK_ELEMENTS if x.device.type == "cpu" else DEVICE_ELEMENTS
    if x.numel() <= largest:
        return iter((x,))
    return iter(x.split(max(1, largest // max(1, x.numel() // x.shape[dim])), dim))


def scratch(like: Tensor, slot: int = 0) -> Tensor:
    """Return uninitialised contiguous memory of a shape, which this thread's next call for the slot overwrites.

    Touching new pages takes longer than the arithmetic on them.
    """
    if like.device.type != "cpu" or like.numel() > CHUNK_ELEMENTS:
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    kept, key = _KEPT.__dict__, f"{slot} {like.dtype}"
    if key not in kept:
        with torch.inference_mode(False):
            kept[key] = torch.empty(CHUNK_ELEMENTS, dtype=like.dtype)
    return kept[key][: like.numel()].view(like.shape)


def is_direct(x: Tensor, copies: int = 1) -> bool:
    """Return whether to compute in float64 at once: small tensors on a CPU, all but large ones on an accelerator.

    Args:
        x: a tensor.
        copies: number of tensors of its size that are computed together.
    """
    return x.numel() * copies <= (DIRECT_ELEMENTS if x.device.type == "cpu" else DEVICE_ELEMENTS)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in the wide dtype; where it has that dtype already, scaled into [-1, 1] by a power of two.

    Squares of widened float32, bfloat16 and float16 values neither over- nor underflow, and a mean of equal ones is
    exact.
    """
    dtype = wide(x.device)
    return x.to(dtype) if x.dtype != dtype and x.element_size() < 8 else x * power_of_two_scale(x)


def is_zero(x: Tensor) -> bool:
    """Return whether all entries are 0 if that is readable without a synchronisation, else False.

    Faster than ``x.any()`` on a CPU.
    """
    smallest, largest = torch.aminmax(x)
    return is_true((smallest == 0) & (largest == 0))


def is_readable(x: Tensor) -> bool:
    """Return whether the entries of ``x`` can be branched on without a synchronisation; False if the first is NaN."""
    first = x[(0,) * x.ndim]
    return is_true(first == first)


def is_true(condition: Tensor) -> bool:
    """Return ``bool(condition)`` if readable without a synchronisation (CPU, not under vmap), else False."""
    if condition.device.type != "cpu":
        return False
    try:
        return bool(condition)
    except RuntimeError:  # under vmap
        return False
