"""Signal propagation: mean squares, and cosines between inputs."""

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import (
    SAFE_SQUARES,
    at_least_single,
    checked,
    is_direct,
    is_true,
    power_of_two_scale,
    square_sum,
    wide,
    widened,
)

SAFE_NORMS = (1e-6, 1e15)  # norms of a row for which no significant square under- or overflows in float32


def mean_square(x: Tensor) -> Tensor:
    """Return the mean of x^2 over all entries, (1 / n) sum_i x_i^2, in float64.

    Args:
        x: any shape, any floating-point dtype.

    Returns:
        0-dim tensor, in squared units of ``x``.

    Source:
        The length of signals in B. Poole et al., "Exponential expressivity in deep neural networks through transient
        chaos", NeurIPS 2016, and of gradients in S. Schoenholz et al., "Deep information propagation", ICLR 2017.
    """
    x = at_least_single(checked(x, 0).detach())
    square = square_sum(x)
    if is_true((square > SAFE_SQUARES[0]) & (square < SAFE_SQUARES[1])):
        return square / x.numel()
    scale = power_of_two_scale(x)
    return square_sum(x * scale) / scale.to(square.dtype).square() / x.numel()


def input_cosine(features: Tensor) -> Tensor:
    """Return the mean cosine between the features of different inputs: 1 if all inputs give the same direction.

    The mean over pairs is (||sum z_i||^2 - n) / (n (n - 1)), with z_i the features scaled to unit norm. All-zero
    features have cosine 0 with all others.

    Args:
        features: (N, ...), N inputs.

    Returns:
        0-dim tensor in [-1, 1]; NaN for a single input.

    Source:
        The correlation between two inputs in B. Poole et al., NeurIPS 2016, as a mean over a batch.
    """
    total, present = direction_sum(checked(features, 1))
    return cosine_of_sum(total, present, torch.full_like(present, len(features)))


def direction_sum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum (D,) of the rows (n, ...) as unit vectors in the wide dtype, and the number of nonzero rows."""
    total, norms = directions(rows.detach().flatten(1))
    return total, (norms != 0).sum()


def directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum (D,) of the rows (n, D) as unit vectors, and their norms (n,), in the wide dtype."""
    if is_direct(rows) and rows.element_size() < 8:
        x = widened(rows)
        norms = torch.linalg.vector_norm(x, dim=1)
        return unit_total(x, norms), norms
    x = at_least_single(rows)
    norms = torch.linalg.vector_norm(x, dim=1)
    scale = None
    if not is_true(((norms > SAFE_NORMS[0]) & (norms < SAFE_NORMS[1])).all()):
        scale = power_of_two_scale(x, dim=1)
        x = x * scale
        norms = torch.linalg.vector_norm(x, dim=1)
    total, norms = unit_total(x, norms).to(wide(x.device)), norms.to(wide(x.device))
    return total, norms if scale is None else norms / scale.squeeze(1)


def unit_total(x: Tensor, norms: Tensor) -> Tensor:
    """Return the sum over n of x (..., n, m) divided by the norms (n,), 0 for a norm of 0: (..., m)."""
    return norms.clamp_min(torch.finfo(norms.dtype).tiny).reciprocal() @ x


def cosine_of_sum(total: Tensor, present: Tensor, count: Tensor) -> Tensor:
    """Return the mean cosine over pairs of ``count`` unit vectors, ``present`` of them nonzero, from their sum (D,)."""
    cosine = ((total.square().sum() - present) / (count * (count - 1))).clamp(-1, 1)
    return torch.where(count > 1, cosine, torch.nan)
