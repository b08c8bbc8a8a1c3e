import numpy as np
import pytest
import torch

from symbreak.callbacks.functional import input_cosine, mean_square


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_mean_square_equals_numpy(dtype):
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert float(mean_square(x)) == pytest.approx((x.double().numpy() ** 2).mean(), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_mean_square_of_tiny_and_huge_values(scale):
    x = torch.tensor([1.0, -2.0, 3.0]) * scale
    assert float(mean_square(x)) == pytest.approx(14 / 3 * scale**2, rel=1e-6)
    assert mean_square(torch.zeros(3)) == 0


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_cosine_is_the_mean_over_pairs_of_inputs(scale):
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    rows = x.flatten(1).double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = ((rows @ rows.T).sum() - 5) / 20
    assert float(input_cosine(x * scale)) == pytest.approx(expected, abs=1e-6)


def test_cosine_of_equal_opposite_zero_and_single_inputs():
    x = torch.randn(1, 6)
    assert float(input_cosine(x.expand(4, 6))) == pytest.approx(1)
    assert float(input_cosine(torch.cat((x, -x)))) == pytest.approx(-1)
    assert float(input_cosine(torch.cat((x, 0 * x)))) == pytest.approx(0, abs=1e-6)
    assert torch.isnan(input_cosine(x))
