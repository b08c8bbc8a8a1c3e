"""Compute forward, backward and kernel correlation of weights together."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import checked, is_direct, is_true, is_zero, wide, widened
from symbreak.callbacks.functional.correlation import mean_correlation, row_sums, unit_sums
from symbreak.callbacks.functional.kernel_products import product_norms


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
    if is_true(w[0, 0, 0] == 0) and is_zero(w):  # zero-initialised residual branches
        return [torch.zeros((), dtype=wide(w.device))] * 6
    return product_norms(w) or _of_views(w, row_sums)


def _of_views(w: Tensor, norms: Callable[[Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Apply a function of rows to the filters, inputs and kernels of weights (..., C_out, C_in, K)."""
    found = [*norms(w.flatten(-2)), *norms(w.transpose(-3, -2).flatten(-2))]
    single = w.shape[-1] == 1  # kernels of one entry are constant
    return found + ([torch.zeros_like(found[0])] * 2 if single else [*norms(w.flatten(-3, -2))])
