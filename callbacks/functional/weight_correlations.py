"""Compute forward, backward and kernel correlation of one weight together, in few passes over it."""

from collections.abc import Iterable
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import at_least_single, checked, chunks, is_true, power_of_two_scale, wide
from symbreak.callbacks.functional.correlation import backward_correlation, forward_correlation, mean_from_unit_sum

SAFE = (1e-24, 1e24)  # sums of squares of a kernel for which no product under- or overflows in float32
CANCELLATION = 2  # largest mean of sum x^2 / sum (x - mean)^2 for which kernels need no shift


class WeightCorrelations(NamedTuple):
    """Three mean correlations of one weight, 0-dim tensors in [-1, 1]."""

    forward: Tensor
    backward: Tensor
    kernel: Tensor


def weight_correlations(weight: Tensor) -> WeightCorrelations:
    """Return forward, backward and kernel correlation of one weight from shared passes over it.

    Every kernel is summed once; the means and norms of filters, inputs and kernels follow from those sums. On a CPU,
    if kernel means are small relative to the spreads, the sums of the unit rows are products with the unshifted weight.
    Otherwise a shift is subtracted from each row first, so that nearly constant rows keep their precision and constant
    rows give exactly 0. Extra memory: a few chunks and O(C_in).

    Kernels whose entries differ by less than 1e-19 of their filter's largest entry count as constant. Inputs whose
    weights are below 1e-17 of the layer's largest lose precision.

    Args:
        weight: (C_out, C_in, ...).

    Returns:
        The values of `forward_correlation`, `backward_correlation` and `kernel_correlation`.
    """
    if checked(weight, 2)[0, 0].numel() == 1:
        forward = forward_correlation(weight)
        backward = backward_correlation(weight)
        return WeightCorrelations(forward, backward, torch.ones_like(forward))
    w = weight.detach().flatten(2)
    return _from_products(w) or _from_differences(w)


def _from_products(w: Tensor) -> WeightCorrelations | None:
    """Return the correlations of kernels (C_out, C_in, K), or None if one is nearly constant or of extreme size."""
    if w.device.type != "cpu" or w.dtype not in (torch.float32, torch.float64):
        return None
    (filters, inputs, taps), ones = w.shape, w.new_ones(w.shape[2])
    kernel_sum, filter_sum = (torch.zeros(size, dtype=torch.float64) for size in (taps, (inputs, taps)))
    means, squares = torch.zeros(2, inputs, dtype=torch.float64)
    parts, buffer = list(chunks(w)), None
    for part in parts:
        rows = part.flatten(0, 1)
        buffer = torch.empty_like(part) if buffer is None else buffer
        values = buffer[: len(part)].copy_(part)
        square = (values.mul_(values).flatten(0, 1) @ ones).view(part.shape[:2])
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
    return WeightCorrelations(*(mean_from_unit_sum(square, count, count) for square, count in found))


def _from_differences(w: Tensor) -> WeightCorrelations:
    """Return the correlations of arbitrary kernels (C_out, C_in, K)."""
    filters, inputs, taps = w.shape
    if is_true(~w.any()):  # zero-initialised residual branches
        return WeightCorrelations(*torch.ones(3, dtype=wide(w.device)))
    scales, base = power_of_two_scale(w.flatten(1), dim=1), w[0, :, 0]
    unit = scales.amin().to(wide(w.device))
    parts = list(chunks(w))
    sums = _total(map(partial(_first_pass, base=base, unit=unit), parts, scales.split([len(part) for part in parts])))
    mean = sums.input_means / filters
    inverse = _inverse_root(sums.input_squares - mean.square() * (taps * filters))
    columns = _columns(parts, base + mean / unit, inverse * unit)
    return WeightCorrelations(
        mean_from_unit_sum(sums.filters.square().sum(), sums.varying_filters, filters),
        mean_from_unit_sum(columns, inverse.count_nonzero(), inputs),
        mean_from_unit_sum(sums.kernels.square().sum(), sums.varying_kernels, filters * inputs),
    )


class _Sums(NamedTuple):
    """Sums over the filters from the first pass; input sums are in the layer's scale, with the base subtracted."""

    kernels: Tensor  # (K,) sum of the unit kernels
    filters: Tensor  # (I, K) sum of the unit filters
    varying_kernels: Tensor
    varying_filters: Tensor
    input_means: Tensor  # (I,) sum of the kernel means
    input_squares: Tensor  # (I,) sum of the squares of all entries


def _total(parts: Iterable[_Sums]) -> _Sums:
    return reduce(lambda a, b: _Sums(*(x + y for x, y in zip(a, b, strict=True))), parts)


def _inverse_root(square: Tensor) -> Tensor:
    """Return 1 / sqrt(square), or 0 for 0."""
    return square.clamp(min=0).rsqrt_().nan_to_num_(nan=torch.nan, posinf=0)


def _first_pass(part: Tensor, scale: Tensor, base: Tensor, unit: Tensor) -> _Sums:
    """Return sums over some filters (o, I, K), each scaled into [-1, 1] by a power of two (o, 1)."""
    taps, dtype = part.shape[2], unit.dtype
    rest, first, mean, square = _kernels(at_least_single(part) * scale[:, :, None])
    inverse = _inverse_root(square)
    by_kernel = torch.matmul(inverse[:, None], rest).squeeze(1) - (inverse * mean).sum(1, keepdim=True)
    kernels = by_kernel.sum(0, dtype=dtype)

    gap = first - first[:, :1]
    between = gap + mean
    center = between.mean(1, keepdim=True)
    between -= center
    by_filter = _inverse_root(square.sum(1) + between.square().sum(1) * taps)
    filters = (by_filter @ rest.flatten(1)).view_as(rest[0]) + (by_filter @ (gap - center))[:, None]

    size = unit / scale.to(dtype)
    relative = first.to(dtype).add_(mean).mul_(size).sub_(base.to(dtype) * unit)
    means = relative.sum(0)
    squares = relative.square().sum(0) * taps + size.square().flatten() @ square.to(dtype)
    sums = (kernels, filters, inverse.count_nonzero(), by_filter.count_nonzero(), means, squares)
    return _Sums(*(value.to(dtype) for value in sums))


def _kernels(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``x`` (o, I, K) minus a shift per kernel, the shifts, and the kernels' means and squared spreads (o, I).

    The shift is 0 if values are readable and no kernel is nearly constant. Otherwise it is the kernel's first entry, so
    that a constant kernel becomes exactly 0 and a nearly constant one keeps its precision.
    """
    mean, square, spread = _moments(x)
    if is_true((spread > 0).all() & ((square / spread).mean() <= CANCELLATION)):
        return x, torch.zeros_like(mean), mean, spread
    first = x[:, :, 0].clone()
    x -= first[:, :, None]
    mean, _, spread = _moments(x)
    return x, first, mean, spread


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, sum of squares and sum of squared distances from the mean of each kernel, (o, I) each."""
    taps = x.shape[2]
    rows, ones = x.flatten(0, 1), x.new_ones(taps)
    mean = (rows @ (ones / taps)).view_as(x[:, :, 0])
    square = (rows.square() @ ones).view_as(mean)
    return mean, square, square - mean.square() * taps


def _columns(parts: list[Tensor], center: Tensor, inverse: Tensor) -> Tensor:
    """Return ||sum of the unit columns||^2, given the mean (I,) and the inverse norm (I,) of each column."""
    taps, dtype = parts[0].shape[2], at_least_single(parts[0][:1, :1]).dtype
    near, factor = (x.to(dtype)[:, None].expand(-1, taps) for x in (center, inverse.clamp(max=torch.finfo(dtype).max)))
    rounding = (inverse * (near[:, 0] - center)).sum()
    near, factor, total = near.flatten(), factor.flatten(), torch.zeros_like(rounding)
    for part in parts:
        unit = (at_least_single(part).flatten(1) - near).mul_(factor).view_as(part)
        total = total + (unit.sum(1) + rounding).square().sum()
    return total
