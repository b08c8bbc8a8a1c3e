"""Feature diversity: mean Pearson correlations, where possible without the matrix of all pairs."""

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import (
    SAFE_SQUARES,
    at_least_single,
    checked,
    chunks,
    is_true,
    power_of_two_scale,
    wide,
)
from symbreak.callbacks.functional.propagation import direction_sum

CLEARLY_VARYING = 0.1  # least spread / sum of squares of a row for which the mean may be subtracted after the product


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
    rows = checked(rows, 1)
    total = torch.zeros(rows[0].numel(), dtype=wide(rows.device), device=rows.device)
    varying = total.new_zeros(())
    for part in chunks(rows.detach()):
        unit, varies = _unit_rows(part.reshape(len(part), -1))
        total = total + unit.sum(0, dtype=total.dtype)
        varying = varying + varies.sum()
    return mean_from_unit_sum(total.square().sum(), varying, len(rows))


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
    rows = at_least_single(checked(features, 2).detach().movedim(dim, 0).flatten(1))
    products, varying = _correlations(rows) or _correlations_of_any(rows)
    return mean_from_unit_sum(torch.linalg.vector_norm(products, 1).to(wide(rows.device)), varying, len(rows))


def mean_from_unit_sum(square: Tensor, varying: Tensor | int, count: int) -> Tensor:
    """Return the mean correlation over pairs of ``count`` rows, of which ``varying`` are not constant.

    Args:
        square: ||sum z_i||^2 over the unit rows z_i (0 for a constant row), 0-dim.
        varying: number of rows that are not constant, a 0-dim tensor or an integer.
        count: number of rows.

    Returns:
        0-dim tensor in [-1, 1].
    """
    if count == 1:
        return torch.ones_like(square)
    pairs = count * (count - 1)
    return ((square - varying * varying + pairs) / pairs).clamp(-1, 1)


def _correlations(rows: Tensor) -> tuple[Tensor, int] | None:
    """Return pairwise correlations (n, n) and n; None if a row is nearly constant or extreme, or unreadable."""
    if rows.device.type != "cpu":
        return None
    products, total = rows @ rows.T, rows.sum(1)
    squares = products.diagonal()
    spread = squares - total.square() / rows.shape[1]
    ordinary = (squares > SAFE_SQUARES[0]) & (squares < SAFE_SQUARES[1]) & (spread > CLEARLY_VARYING * squares)
    if not is_true(ordinary.all()):
        return None
    inverse = spread.rsqrt()
    products.addr_(total, total, alpha=-1 / rows.shape[1]).mul_(inverse).mul_(inverse[:, None])
    return products, len(rows)


def _correlations_of_any(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the correlations of arbitrary rows (0 if constant), and the number of varying rows."""
    unit, varies = _unit_rows(rows)
    return unit @ unit.T, varies.sum()


def _unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred rows scaled to unit norm (0 if constant), and a mask (n,) of the varying rows."""
    x = at_least_single(rows)
    x = x * power_of_two_scale(x, dim=1)
    x -= x[:, :1].clone()  # constant rows become exactly 0, nearly constant ones keep their precision
    x -= x.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(norm == 0, 0, x / norm), (norm != 0).squeeze(1)
