import numpy as np
import pytest
import torch

from symbreak.callbacks.functional import effective_rank, numerical_rank, stable_rank

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 4), (2, 3)]


def values_of(matrix):
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_equal_those_from_a_singular_value_decomposition(dtype, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = values_of(matrix)
    share = values / values.sum()
    assert float(effective_rank(matrix)) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert float(stable_rank(matrix)) == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)
    assert int(numerical_rank(matrix)) == (values > 1e-4 * values[0]).sum()


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_hand_known_ranks_at_any_scale(scale):
    one = torch.outer(torch.arange(1.0, 7), torch.arange(2.0, 6)) * scale
    ranks = (effective_rank, stable_rank, numerical_rank)
    assert [float(rank(one)) for rank in ranks] == pytest.approx([1, 1, 1], abs=1e-6)
    assert [float(rank(torch.eye(5, 8) * scale)) for rank in ranks] == pytest.approx([5, 5, 5])
    assert [float(rank(torch.zeros(3, 4))) for rank in ranks] == [0, 0, 0]


def test_a_rank_is_relative_to_its_tolerance():
    matrix = torch.diag(torch.tensor([1.0, 1e-3, 1e-5]))
    assert [int(numerical_rank(matrix, tol)) for tol in (1e-2, 1e-4, 1e-6)] == [1, 2, 3]
    with pytest.raises(ValueError, match="tol must be"):
        numerical_rank(matrix, 1e-9)
    with pytest.raises(ValueError, match="matrix"):
        stable_rank(torch.randn(2, 3, 4))
