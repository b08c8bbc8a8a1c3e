"""Statistics of the channels of large features on a CPU, from one product in the features' own precision."""

from typing import NamedTuple

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import SAFE_SQUARES, at_least_single, is_direct, is_true, wide

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
        dtype, distances = wide(self.values.device), self.values[1:, 1:]
        square = _unshifted(self.values).diagonal().sum(dtype=dtype)
        if not is_true((square > SAFE_SQUARES[0]) & (square < SAFE_SQUARES[1])):
            return None
        spread = distances.diagonal().sum(dtype=dtype) - distances.sum(dtype=dtype) / len(self.values)
        return spread.clamp(min=0), square

    def correlations(self) -> Tensor | None:
        """Return the Pearson correlation of all pairs of rows, (C, C); None if a row is constant or extreme."""
        products, totals = _unshifted(self.values), self.totals.clone()
        totals[1:] += totals[0]
        squares = products.diagonal()
        spread = squares - totals.square() / self.entries
        ordinary = (squares > SAFE_SQUARES[0]) & (squares < SAFE_SQUARES[1]) & (spread > CLEARLY_VARYING * squares)
        if not is_true(ordinary.all()):
            return None
        inverse = spread.rsqrt()
        return products.addr_(totals, totals, alpha=-1 / self.entries).mul_(inverse).mul_(inverse[:, None])


def channel_products(rows: Tensor) -> ChannelProducts | None:
    """Return the products of large rows (C, ...) on a CPU; None where float64 at once is faster."""
    if rows.device.type != "cpu" or is_direct(rows):
        return None
    shifted = at_least_single(rows).clone(memory_format=torch.contiguous_format).flatten(1)
    shifted[1:] -= shifted[:1]
    return ChannelProducts(shifted @ shifted.T, shifted.sum(1), shifted.shape[1])


def _unshifted(values: Tensor) -> Tensor:
    """Return x_i . x_j from z_i . z_j, where x_0 = z_0 and x_i = z_i + z_0."""
    products = values.clone()
    products[1:] += products[:1]
    products[:, 1:] += products[:, :1]
    return products
