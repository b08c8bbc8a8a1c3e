"""Distance between initially identical channels, and its growth rate."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import (
    SAFE_SQUARES,
    at_least_single,
    checked,
    chunks,
    is_direct,
    is_readable,
    is_true,
    is_zero,
    power_of_two_scale,
    scratch,
    square_sum,
    wide,
    widened,
)


class Growth(NamedTuple):
    """An exponential fit: ``rate`` in 1/step, ``r2`` the coefficient of determination of the logarithm."""

    rate: float
    r2: float


def asymmetry(x: Tensor, dim: int = 0) -> Tensor:
    """Return the rms distance of the slices along ``dim`` from their mean, relative to their rms norm.

    sqrt(sum_c ||x_c - mean_c x||^2) / ||x||. Slice 0 is subtracted first, so that bitwise equal slices give exactly 0
    without rounding error.

    Args:
        x: a weight (``dim`` 0: filters) or the output of a layer (``dim`` its channel axis).
        dim: the axis along which slices are compared.

    Returns:
        0-dim tensor in [0, 1]; 0 where x = 0. Differences below 1e-19 of the largest entry vanish in float32.

    Raises:
        ValueError: if ``x`` is empty or has no dimension.

    Source:
        This project's own.
    """
    x = checked(x, 1).detach()
    if is_direct(x):
        values = widened(x)
        spread, size = spread_norm(values, dim, exact=x.element_size() < 8), torch.linalg.vector_norm(values)
        return torch.where(size == 0, 0, (spread / size).clamp(max=1))
    spread, square, _ = scaled_sums(x, dim)
    return torch.where(square == 0, 0, (spread / square).sqrt().clamp(max=1))


def spread_norm(x: Tensor, dim: int, lead: int = 0, exact: bool = True) -> Tensor:
    """Return sqrt(sum_c ||x_c - mean_c x||^2) of widened values.

    Args:
        x: (..., C, ...).
        dim: the axis of the channels c.
        lead: number of leading axes that are kept.
        exact: whether a mean of equal entries is exact, as it is for values that were widened from fewer bits;
            otherwise slice 0 is subtracted first.
    """
    shifted = x if exact else x - x.narrow(dim, 0, 1)
    distance = shifted - shifted.mean(dim, keepdim=True)
    return torch.linalg.vector_norm(distance, dim=tuple(range(lead, x.ndim)))


def scaled_sums(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of :func:`asymmetry`, sum_c ||s (x_c - mean_c x)||^2 and ||s x||^2, and the scale s."""
    x, one = checked(x, 1).detach(), torch.ones((), dtype=wide(x.device), device=x.device)
    spread, square = _sums(x, dim, None) if x.device.type == "cpu" else (one, one.new_zeros(()))
    safe = is_true((square > SAFE_SQUARES[0]) & (square < SAFE_SQUARES[1]))
    if safe or (is_true(square == 0) and is_zero(x)):  # the CPU rescales only if necessary
        return spread, square, one
    scale = power_of_two_scale(x)
    return *_sums(x, dim, scale), scale.to(one.dtype)


def _sums(x: Tensor, dim: int, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    first = at_least_single(x.narrow(dim, 0, 1)).clone()
    first = first if scale is None else first.mul_(scale)
    shift = torch.zeros_like(first, dtype=wide(x.device))
    square = spread = shift.new_zeros(())
    reuse = is_readable(first)  # vmap does not support out=
    for part in chunks(x, dim):
        values = at_least_single(part).contiguous()
        values = values if scale is None else values * scale
        square = square + square_sum(values)
        values = torch.sub(values, first, out=scratch(values)) if reuse else values - first
        spread = spread + square_sum(values)
        shift = shift + values.sum(dim, keepdim=True)
    return (spread - shift.square().sum() / x.shape[dim]).clamp(min=0), square


def growth(steps: Sequence[float], values: Sequence[float], low: float = 1e-6, high: float = 1e-2) -> Growth | None:
    """Return the slope of ln(value) against the step over the last rise from ``low`` (or its minimum) to ``high``.

    The last rise ends at the last measurement that crossed ``high`` from below. It begins after the last preceding
    value below ``low``; without one, at the smallest value since the measurements were last above ``high``.

    Args:
        steps: steps of the measurements, increasing.
        values: non-negative measurements, one per step.
        low: value at which a rise begins.
        high: value at which a rise ends.

    Returns:
        The least-squares fit over the values of the rise up to ``high``, or None if there are fewer than three. With
        y = ln(value), rate = sum (t - mean t) (y - mean y) / sum (t - mean t)^2, and r2 is the squared correlation.

    Source:
        This project's own, on ordinary least squares.
    """
    rises = [i for i in range(1, len(values)) if values[i] >= high > values[i - 1]]
    if not rises:
        return None
    end = rises[-1]
    begin = max((i + 1 for i in range(end) if values[i] >= high), default=0)
    under = [i for i in range(begin, end) if values[i] < low]
    begin = under[-1] + 1 if under else min(range(begin, end), key=lambda i: (values[i], -i))
    return _exponential_fit(steps[begin:end], values[begin:end])


def _exponential_fit(steps: Sequence[float], values: Sequence[float]) -> Growth | None:
    if len(steps) < 3:
        return None
    logs, n = [math.log(value) for value in values], len(steps)
    mean_step, mean_log = sum(steps) / n, sum(logs) / n
    step_square = sum((s - mean_step) ** 2 for s in steps)
    log_square = sum((y - mean_log) ** 2 for y in logs)
    product = sum((s - mean_step) * (y - mean_log) for s, y in zip(steps, logs, strict=True))
    return Growth(product / step_square, product**2 / (step_square * log_square) if log_square else 1.0)
