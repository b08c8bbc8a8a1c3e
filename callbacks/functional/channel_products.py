"""Statistics of the channels of large features on a CPU, from one product in the features' own precision."""

from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import (
    SAFE_SQUARES,
    at_least_single,
    is_direct,
    is_readable,
    is_true,
    scratch,
    wide,
)

CLEARLY_VARYING = 0.1  # least spread / sum of squares of a row for which the mean may be subtracted after the product


class ChannelProducts(NamedTuple):
    """Products of the rows x_i of (C, n), free of rounding error where rows are equal.

    Attributes:
        values: z_i . z_j, (C, C), of z_0 = x_0 and z_i = x_i - x_0.
        totals: sum of each z_i, (C,).
        entries: n.
    """

    values: Tensor
    totals: Tensor
    entries: int

    def spread_and_square(self) -> tuple[Tensor, Tensor] | None:
        """Return sum_i ||x_i - mean x||^2 and sum_i ||x_i||^2; None if float32 is too narrow for them."""
        dtype, first = wide(self.values.device), self.values[0]
        distances = self.values.diagonal()[1:].sum(dtype=dtype)
        square = distances + 2 * first[1:].sum(dtype=dtype) + len(first) * first[0].to(dtype)
        if not is_true((square > SAFE_SQUARES[0]) & (square < SAFE_SQUARES[1])):
            return None
        return (distances - self.values[1:, 1:].sum(1).sum(dtype=dtype) / len(first)).clamp(min=0), square

    def absolute_correlation(self) -> Tensor | None:
        """Return the sum of |Pearson correlation| over all pairs of rows; None if a row is constant or extreme."""
        values, first = self.values, self.values[0]
        is_shifted = torch.ones_like(first)
        is_shifted[0] = 0
        totals = self.totals + is_shifted * self.totals[0]
        others = first + is_shifted * first[0]
        squares = values.diagonal() + is_shifted * (first + others)
        spread = squares - totals.square() / self.entries
        ordinary = (squares > SAFE_SQUARES[0]) & (squares < SAFE_SQUARES[1]) & (spread > CLEARLY_VARYING * squares)
        if not is_true(ordinary.all()):
            return None
        # x_i . x_j = z_i . z_j + z_i . s_j z_0 + s_i z_0 . (z_j + s_j z_0), with s_i = 0 for i = 0, else 1
        left = torch.stack([first, is_shifted, totals], 1)
        right = torch.stack([is_shifted, others, totals / -self.entries])
        inverse = spread.rsqrt()
        return torch.dot(torch.addmm(values, left, right).abs_() @ inverse, inverse)


def channel_products(rows: Tensor) -> ChannelProducts | None:
    """Return the products of large rows (C, ...) on a CPU; None where float64 at once is faster, and under vmap."""
    if is_direct(rows) or not is_readable(rows):
        return None
    rows = at_least_single(rows)
    shifted = torch.sub(rows, rows[:1], out=scratch(rows))
    shifted[0] = rows[0]
    shifted = shifted.flatten(1)
    return ChannelProducts(shifted @ shifted.T, shifted.sum(1), shifted.shape[1])
