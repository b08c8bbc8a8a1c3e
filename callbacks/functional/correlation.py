"""Feature diversity: mean Pearson correlations, where possible without the matrix of all pairs."""

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from symbreak.callbacks.functional._numerics import (
    checked,
    chunks,
    wide,
    widened,
)
from symbreak.callbacks.functional.channel_products import ChannelProducts, channel_products
from symbreak.callbacks.functional.propagation import direction_sum

Number = TypeVar("Number", float, Tensor)


def mean_pairwise_correlation(rows: Tensor) -> Tensor:
    """Return the mean Pearson correlation over all pairs of rows.

    The mean is (||sum_i z_i||^2 - n) / (n (n - 1)), with z_i the rows centred and scaled to unit norm. A constant row
    counts as correlation 1 with every other row. A single row gives 1.

    Args:
        rows: (n, ...), any floating-point dtype.

    Returns:
        0-dim tensor in [-1, 1].

    Source:
        Y. Blumenfeld, D. Gilboa and D. Soudry, "Beyond signal propagation", ICML 2020, whose code averages the
        matrix of all pairs over a sample of the rows.
    """
    total, size = row_sums(checked(rows, 1).detach())
    return mean_correlation(total * total, size, rows[0].numel(), len(rows))


def forward_correlation(weight: Tensor) -> Tensor:
    """Return the mean correlation over pairs of filters W[o], the incoming weights of a unit.

    2 / (C_out (C_out - 1)) sum_(o < p) corr(W[o], W[p]): :func:`mean_pairwise_correlation` of the rows W[o].

    Args:
        weight: (C_out, C_in, ...).

    Returns:
        0-dim tensor in [-1, 1].

    Source:
        The correlation of forward kernels in Blumenfeld, Gilboa and Soudry, ICML 2020.
    """
    return mean_pairwise_correlation(checked(weight, 2))


def backward_correlation(weight: Tensor) -> Tensor:
    """Return the mean correlation over pairs of W[:, i], the outgoing weights of a unit.

    2 / (C_in (C_in - 1)) sum_(i < j) corr(W[:, i], W[:, j]): :func:`mean_pairwise_correlation` of the columns.

    Args:
        weight: (C_out, C_in, ...).

    Returns:
        0-dim tensor in [-1, 1].

    Source:
        The correlation of backward kernels in Blumenfeld, Gilboa and Soudry, ICML 2020.
    """
    return mean_pairwise_correlation(checked(weight, 2).transpose(0, 1))


def kernel_correlation(weight: Tensor) -> Tensor:
    """Return the mean correlation over pairs of the C_out * C_in spatial kernels; 1 if kernels have one entry.

    :func:`mean_pairwise_correlation` of the n = C_out * C_in rows W[o, i].

    Args:
        weight: (C_out, C_in, ...).

    Returns:
        0-dim tensor in [-1, 1].

    Source:
        The correlation of all kernels of a layer in Blumenfeld, Gilboa and Soudry, ICML 2020.
    """
    return mean_pairwise_correlation(checked(weight, 2).flatten(0, 1))


def cross_layer_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean cosine between each filter of one layer and each filter of another.

    1 / (n m) sum_(i, j) cos(a_i, b_j) = (sum_i a_i / ||a_i||) . (sum_j b_j / ||b_j||) / (n m). A zero filter counts as
    cosine 1 with every other, as in :func:`mean_pairwise_correlation`.

    Args:
        a: (n, ...) filters.
        b: (m, ...) filters with the same fan-in.

    Returns:
        0-dim tensor in [-1, 1].

    Raises:
        ValueError: if the filters differ in size.

    Source:
        This project's own, after the correlations within a layer.
    """
    if checked(a, 1)[0].numel() != checked(b, 1)[0].numel():
        raise ValueError(f"filters of equal fan-in are needed, got {a[0].numel()} and {b[0].numel()} weights")
    (sum_a, present_a), (sum_b, present_b) = direction_sum(a), direction_sum(b)
    pairs = len(a) * len(b)
    return ((torch.dot(sum_a, sum_b) + pairs - present_a * present_b) / pairs).clamp(-1, 1)


def feature_correlation(features: Tensor, dim: int = 1) -> Tensor:
    """Return the mean absolute Pearson correlation over pairs of channels, over all other axes (batch and space).

    The absolute value needs the C x C matrix of products: (sum |z_i . z_j| - C) / (C (C - 1)). A constant channel
    counts as correlation 1, as in :func:`mean_pairwise_correlation`.

    Args:
        features: output of a layer, e.g. (N, C, H, W) or (N, L, C).
        dim: the axis of the channels.

    Returns:
        0-dim tensor in [0, 1].

    Source:
        This project's own: the correlations of Blumenfeld, Gilboa and Soudry, ICML 2020, of features, not weights.
    """
    rows = checked(features, 2).detach().movedim(dim, 0)
    return mean_correlation(*absolute_sums(rows, channel_products(rows)), rows[0].numel(), len(rows))


def unit_rows(rows: Tensor) -> Tensor:
    """Return widened rows (..., n, m), centred and scaled to a mean square of 1; constant rows give exactly 0."""
    shifted = rows - rows[..., :1]  # nearly constant rows keep their precision
    return layer_norm(shifted, shifted.shape[-1:], eps=torch.finfo(rows.dtype).tiny)


def unit_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return ||sum u_i|| and sqrt(sum ||u_i||^2), (...), over the unit rows u_i of widened rows (..., n, m)."""
    unit = unit_rows(rows)
    return torch.linalg.vector_norm(unit.sum(-2), dim=-1), torch.linalg.vector_norm(unit, dim=(-2, -1))


def row_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two norms of :func:`unit_sums` for rows (n, ...) of any dtype and size, part by part."""
    total = square = None
    for part in chunks(rows):
        unit = unit_rows(widened(part.flatten(1) if part.ndim > 1 else part[:, None]))
        total = unit.sum(0) if total is None else total + unit.sum(0)
        size = torch.linalg.vector_norm(unit).square()
        square = size if square is None else square + size
    assert total is not None
    assert square is not None
    return torch.linalg.vector_norm(total), square.sqrt()


def absolute_sums(rows: Tensor, products: ChannelProducts | None) -> tuple[Tensor, Tensor]:
    """Return sum |u_i . u_j| over all pairs of unit rows of (n, ...), and sqrt(sum ||u_i||^2).

    Args:
        rows: the rows.
        products: their products; None to compute with the rows in float64.
    """
    found = None if products is None else products.absolute_correlation()
    if found is None:
        return absolute_sums_of_unit(unit_rows(widened(rows.flatten(1))))
    absolute = found.to(wide(rows.device)) * rows[0].numel()
    return absolute, torch.full_like(absolute, rows.numel()).sqrt()


def absolute_sums_of_unit(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of `absolute_sums` for unit rows (n, m)."""
    return torch.linalg.vector_norm(unit @ unit.T, 1), torch.linalg.vector_norm(unit)


def mean_correlation(total: Number, size: Number, entries: int, count: int) -> Number:
    """Return the mean correlation over pairs of ``count`` rows of which constant ones correlate by 1 with every other.

    Args:
        total: ||sum u_i||^2 over the unit rows u_i, which have a mean square of 1, or 0 if constant; or another sum
            of u_i . u_j over all pairs.
        size: sqrt(sum ||u_i||^2), the root of the number of entries of rows that vary.
        entries: entries of a row.
        count: number of rows.

    Returns:
        Value in [-1, 1].
    """
    varying, pairs = size * size / entries, count * (count - 1)
    if count == 1:
        return varying * 0 + 1
    value = total / (entries * pairs) - varying * varying / pairs + 1
    if isinstance(value, Tensor):
        return value.clamp(-1, 1)
    return value if value != value else min(max(value, -1.0), 1.0)
