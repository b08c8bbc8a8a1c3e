"""Singular values and ranks of a matrix."""

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import at_least_single, checked, chunks, power_of_two_scale, wide


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values, largest first, from the smaller of the two Gram matrices in float64.

    The Gram matrix costs O(P Q min(P, Q)) time and holds min(P, Q)^2 numbers. It resolves singular values down to about
    1e-7 of the largest. Values below its rounding error are returned as 0, so that a matrix of rank one has rank one.
    A matrix with NaN or infinite entries gives NaN.

    Args:
        matrix: (P, Q), any floating-point dtype.

    Returns:
        (min(P, Q),) values, all scaled by one power of two that prevents overflow.

    Raises:
        ValueError: if ``matrix`` is not two-dimensional.
    """
    if matrix.ndim != 2:
        raise ValueError(f"a rank is that of a matrix, got {matrix.ndim} dimensions")
    matrix = checked(matrix, 2)
    x = matrix.detach() if matrix.shape[0] <= matrix.shape[1] else matrix.detach().T
    scale = power_of_two_scale(x)
    gram = x.new_zeros(len(x), len(x), dtype=wide(x.device))  # of x, so that torch.vmap maps it
    for part in chunks(x, dim=1):
        part = (at_least_single(part) * scale).to(gram.dtype)
        gram.addmm_(part, part.T)
    finite = gram.sum().isfinite()  # eigvalsh raises on NaN; the scale keeps sums of finite entries finite
    gram = torch.where(finite, gram, 0)
    squares = torch.linalg.eigvalsh(gram).flip(0)
    noise = squares[:1] * len(squares) * torch.finfo(squares.dtype).eps
    return torch.where(finite, torch.where(squares <= noise, 0, squares).sqrt(), torch.nan)


def effective_rank(matrix: Tensor) -> Tensor:
    """Return exp(-sum p ln p) with p the singular values divided by their sum; 0 for a zero matrix.

    Source: O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007.

    Args:
        matrix: (P, Q).

    Returns:
        0-dim tensor between 1 and min(P, Q), or 0.
    """
    return effective_rank_of(singular_values(matrix))


def stable_rank(matrix: Tensor) -> Tensor:
    """Return ||W||_F^2 / ||W||_2^2; 0 for a zero matrix.

    Source: M. Rudelson and R. Vershynin, "Sampling from large matrices", J. ACM 54(4), 2007.

    Args:
        matrix: (P, Q).

    Returns:
        0-dim tensor between 1 and min(P, Q), or 0.
    """
    return stable_rank_of(singular_values(matrix))


def numerical_rank(matrix: Tensor, tol: float = 1e-4) -> Tensor:
    """Return the number of singular values above ``tol`` times the largest, |{i : s_i > tol s_1}|; 0 for a zero matrix.

    Source: G. Golub and C. Van Loan, "Matrix computations", on the numerical rank.

    Args:
        matrix: (P, Q).
        tol: relative threshold, at least 1e-6 to exceed the rounding error of the Gram matrix.

    Returns:
        0-dim tensor between 1 and min(P, Q), or 0.

    Raises:
        ValueError: if ``tol`` is outside [1e-6, 1).
    """
    if not 1e-6 <= tol < 1:
        raise ValueError(f"tol must be in [1e-6, 1), got {tol}")
    return numerical_rank_of(singular_values(matrix), tol)


def effective_rank_of(values: Tensor) -> Tensor:
    """Return the effective rank, given the singular values (n,)."""
    share = values / values.sum()
    return torch.where(values[0] == 0, 0, torch.special.entr(share).sum().exp())


def stable_rank_of(values: Tensor) -> Tensor:
    """Return the stable rank, given the singular values (n,), largest first."""
    return torch.where(values[0] == 0, 0, (values / values[0]).square().sum())


def numerical_rank_of(values: Tensor, tol: float = 1e-4) -> Tensor:
    """Return the numerical rank, given the singular values (n,), largest first."""
    return torch.where(values[0].isnan(), torch.nan, (values > tol * values[0]).sum())
