"""Compute forward, backward and kernel correlation of weights together."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import checked, chunks, is_direct, is_true, is_zero, wide, widened
from symbreak.callbacks.functional.correlation import mean_correlation, row_sums, unit_sums

SAFE = (1e-24, 1e24)  # sums of squares of a kernel for which no product under- or overflows in float32
CANCELLATION = 2  # largest mean of sum x^2 / sum (x - mean)^2 for which kernels need no shift


class WeightCorrelations(NamedTuple):
    """Three mean correlations of one weight, 0-dim tensors in [-1, 1]."""

    forward: Tensor
    backward: Tensor
    kernel: Tensor


def weight_correlations(weight: Tensor) -> WeightCorrelations:
    """Return forward, backward and kernel correlation of one weight.

    Args:
        weight: (C_out, C_in, ...).

    Returns:
        The values of `forward_correlation`, `backward_correlation` and `kernel_correlation`.
    """
    sums = [each.squeeze(0) for each in correlation_sums(checked(weight, 2).detach()[None])]
    pairs = zip(sums[::2], sums[1::2], rows_of(weight.shape), strict=True)
    return WeightCorrelations(*(mean_correlation(total * total, size, *rows) for total, size, rows in pairs))


def rows_of(shape: torch.Size) -> list[tuple[int, int]]:
    """Return entries and number of the rows whose pairs are forward, backward and kernel correlated."""
    filters, inputs, taps = shape[0], shape[1], shape[2:].numel()
    return [(inputs * taps, filters), (filters * taps, inputs), (taps, filters * inputs)]


def correlation_sums(weights: Tensor, wide_weights: Tensor | None = None) -> list[Tensor]:
    """Return the two norms of `unit_sums` for filters, inputs and kernels of weights of one shape.

    Args:
        weights: (L, C_out, C_in, ...).
        wide_weights: The same weights widened, if they are at hand.

    Returns:
        Six tensors (L,).
    """
    if is_direct(weights):
        return _of_views(_kernels(widened(weights) if wide_weights is None else wide_weights), unit_sums)
    return [torch.stack(column) for column in zip(*map(_of_large, _kernels(weights)), strict=True)]


def _kernels(weights: Tensor) -> Tensor:
    """Return weights (L, C_out, C_in, ...) with one axis K for all taps."""
    return weights.flatten(3) if weights.ndim > 3 else weights[..., None]


def _of_large(w: Tensor) -> list[Tensor]:
    """Return the norms for one large weight (C_out, C_in, K)."""
    found = _products(w)
    if found is None and is_zero(w):  # zero-initialised residual branches
        return [torch.zeros((), dtype=wide(w.device))] * 6
    return found or _of_views(w, row_sums)


def _of_views(w: Tensor, norms: Callable[[Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Apply a function of rows to the filters, inputs and kernels of weights (..., C_out, C_in, K)."""
    found = [*norms(w.flatten(-2)), *norms(w.transpose(-3, -2).flatten(-2))]
    single = w.shape[-1] == 1  # kernels of one entry are constant
    return found + ([torch.zeros_like(found[0])] * 2 if single else [*norms(w.flatten(-3, -2))])


def _products(w: Tensor) -> list[Tensor] | None:
    """Return the norms for kernels (C_out, C_in, K) from products with the unshifted weight, on a CPU.

    Faster than unit rows in float64, which other weights get. None if a kernel is nearly constant or extreme.
    """
    if w.device.type != "cpu" or w.dtype not in (torch.float32, torch.float64) or w.shape[2] == 1:
        return None
    (filters, inputs, taps), ones = w.shape, w.new_ones(w.shape[2])
    kernel_sum, filter_sum = (torch.zeros(size, dtype=torch.float64) for size in (taps, (inputs, taps)))
    means, squares = torch.zeros(2, inputs, dtype=torch.float64)
    parts, buffer = list(chunks(w)), None
    for part in parts:
        rows = part.flatten(0, 1)
        buffer = torch.empty_like(part) if buffer is None else buffer
        values = torch.mul(part, part, out=buffer[: len(part)])
        square = (values.flatten(0, 1) @ ones).view(part.shape[:2])
        mean = (rows @ (ones / taps)).view(part.shape[:2])
        spread = torch.addcmul(square, mean, mean, value=-taps)
        inverse = spread.rsqrt()  # NaN if rounding made the spread negative
        (low, high), growth = square.aminmax(), torch.dot((square * inverse).flatten(), inverse.flatten())
        if not is_true((low > SAFE[0]) & (high < SAFE[1]) & (growth <= CANCELLATION * square.numel())):
            return None
        shift = (inverse * mean).sum(1, keepdim=True)
        kernel_sum += (torch.matmul(inverse[:, None], part).squeeze(1) - shift).sum(0, dtype=torch.float64)
        center = mean.mean(1, keepdim=True)
        by_filter = (spread.sum(1) + (mean - center).square().sum(1) * taps).rsqrt()
        filter_sum += (by_filter @ part.flatten(1)).view(inputs, taps) - by_filter @ center
        means += mean.sum(0)
        squares += square.sum(0)
    means /= filters
    inverse = (squares - means.square() * (filters * taps)).rsqrt().to(w.dtype)
    offset = inverse.double() @ means
    columns = torch.stack([(torch.matmul(inverse, part).double() - offset).square().sum() for part in parts]).sum()
    found = ((filter_sum.square().sum(), filters), (columns, inputs), (kernel_sum.square().sum(), filters * inputs))
    entries = (inputs * taps, filters * taps, taps)
    squares = [(square * size, size * count) for (square, count), size in zip(found, entries, strict=True)]
    return [torch.as_tensor(value, dtype=torch.float64).sqrt() for pair in squares for value in pair]
