"""Correlations of a large convolution weight on a CPU, from products with the weight in its own precision."""

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import chunks, is_true, scratch

SAFE = (1e-24, 1e24)  # sums of squares of a kernel for which no product under- or overflows in float32
CANCELLATION = 2  # largest mean of sum x^2 / sum (x - mean)^2 for which kernels need no shift


def product_norms(weight: Tensor) -> list[Tensor] | None:
    """Return the two norms of `unit_sums` for the filters, inputs and kernels of a weight (C_out, C_in, K).

    Several times faster than unit rows in float64. None if a kernel is too small or too large for float32.
    """
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64) or weight.shape[2] == 1:
        return None
    first = weight[0]
    square, mean = first.square().sum(1), first.mean(1)
    varies = _varies(square, _inverse_root(torch.addcmul(square, mean, mean, value=-first.shape[1])))
    if varies and (found := _Products(weight, shifted=False).norms()):
        return found
    return _Products(weight, shifted=True).norms()


class _Products:
    """Sums over parts of a weight.

    Args:
        weight: (C_out, C_in, K).
        shifted: whether the first tap is subtracted from each kernel, so that nearly constant kernels lose nothing.
    """

    def __init__(self, weight: Tensor, shifted: bool) -> None:
        (self.filters, self.inputs, self.taps), self.shifted = weight.shape, shifted
        self.parts, self.ones = list(chunks(weight)), weight.new_ones(self.taps)
        self.origin = weight[0, :, 0]
        self.kernel_sum, self.filter_sum, self.by_input, self.varying = (
            torch.zeros(size, dtype=torch.float64)
            for size in (self.taps, (self.inputs, self.taps), (3, self.inputs), 2)
        )

    def norms(self) -> list[Tensor] | None:
        """Return the norms; None if a kernel is too small, too large or in need of the shift."""
        if not all(map(self._add, self.parts)):
            return None
        spread, total, square = self.by_input
        size = spread + (square - total.square() / self.filters) * self.taps
        if not _is_ordinary(size, size[:, None]):
            return None
        columns = self._columns(_inverse_root(size).to(self.ones.dtype), (total / self.filters).to(self.ones.dtype))
        totals = self.filter_sum.square().sum(), columns, self.kernel_sum.square().sum()
        varying = self.varying[0], size.count_nonzero(), self.varying[1]
        entries = self.inputs * self.taps, self.filters * self.taps, self.taps
        pairs = [(total * size, size * rows) for total, rows, size in zip(totals, varying, entries, strict=True)]
        return [value.double().sqrt() for pair in pairs for value in pair]

    def _add(self, part: Tensor) -> bool:
        kernels = self._kernels(part)
        product = torch.mul(kernels, kernels, out=scratch(part, slot=1))
        square = (product.flatten(0, 1) @ self.ones).view(part.shape[:2])
        mean = (kernels.flatten(0, 1) @ (self.ones / self.taps)).view(part.shape[:2])
        spread = torch.addcmul(square, mean, mean, value=-self.taps)
        inverse = _inverse_root(spread)
        if not _is_ordinary(spread, kernels) or not (self.shifted or _varies(square, inverse)):
            return False
        self.kernel_sum += torch.matmul(inverse[:, None], kernels).sum(0, dtype=torch.float64)[0]
        self.kernel_sum -= torch.dot(inverse.flatten(), mean.flatten())
        center = mean + (part[..., 0] - part[:, :1, 0]) if self.shifted else mean
        center = center - center.mean(1, keepdim=True)
        size = torch.addcmul(spread, center, center, value=self.taps).sum(1)
        if not _is_ordinary(size, center):
            return False
        by_filter = _inverse_root(size)
        self.filter_sum += (by_filter @ kernels.flatten(1)).view(self.inputs, self.taps)
        self.filter_sum += (by_filter @ (center - mean))[:, None]
        self.varying += torch.stack([size.count_nonzero(), spread.count_nonzero()])
        center = mean + (part[..., 0] - self.origin).double() if self.shifted else mean
        for total, values in zip(self.by_input, (spread, center, center.square()), strict=True):
            total += values.sum(0)
        return True

    def _columns(self, inverse: Tensor, mean: Tensor) -> Tensor:
        """Return the square of the sum of unit inputs, given the inverse norms and the means of inputs."""
        total = torch.zeros((), dtype=torch.float64)
        for part in self.parts:
            offset = (part[..., 0] - self.origin - mean) @ inverse if self.shifted else -torch.dot(mean, inverse)
            total += (torch.matmul(inverse, self._kernels(part)).double() + offset[..., None]).square().sum()
        return total

    def _kernels(self, part: Tensor) -> Tensor:
        return torch.sub(part, part[..., :1], out=scratch(part)) if self.shifted else part


def _inverse_root(squares: Tensor) -> Tensor:
    """Return 1 / sqrt(x), for 0 a finite number."""
    return squares.clamp_min(SAFE[0]).rsqrt_()


def _is_ordinary(squares: Tensor, values: Tensor) -> bool:
    """Return whether the squared norms (...) of values (..., n) are in the safe range, except those of zeros."""
    low, high = squares.aminmax()
    if is_true((low > SAFE[0]) & (high < SAFE[1])):
        return True
    return is_true(high < SAFE[1]) and not is_true(((squares < SAFE[0]) & values.any(-1)).any())


def _varies(square: Tensor, inverse: Tensor) -> bool:
    """Return whether the mean of sum x^2 / sum (x - mean)^2 over kernels is small."""
    growth = torch.dot((square * inverse).flatten(), inverse.flatten())
    return is_true(growth <= CANCELLATION * square.numel())
