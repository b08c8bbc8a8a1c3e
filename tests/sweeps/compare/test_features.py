import pytest
import torch

from symbreak.sweeps.compare.features import cka, grams


def similarity(x, y):
    return cka(grams({"a": x}), grams({"a": y}))["a"]


def test_cka_is_one_up_to_rotation_and_scale_and_near_zero_for_independent_features():
    torch.manual_seed(0)
    x = torch.randn(60, 20)
    rotation = torch.linalg.qr(torch.randn(20, 20))[0]
    assert similarity(x, 3 * x @ rotation + 5) == pytest.approx(1, abs=1e-6)
    independent = [similarity(torch.randn(60, 500), torch.randn(60, 500)) for _ in range(20)]
    assert abs(sum(independent) / 20) < 0.02  # the biased estimator gives 0.9 here


def test_cka_equals_the_debiased_estimator_written_out():
    torch.manual_seed(0)
    x, y = torch.randn(12, 5).double(), torch.randn(12, 7).double()

    def hsic(k, other):
        n = len(k)
        k, other = k.clone().fill_diagonal_(0), other.clone().fill_diagonal_(0)
        ones = torch.ones(n, dtype=torch.float64)
        first = (k @ other).trace()
        second = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
        third = 2 * (ones @ k @ other @ ones) / (n - 2)
        return (first + second - third) / (n * (n - 3))

    k, other = x @ x.T, y @ y.T
    expected = hsic(k, other) / (hsic(k, k) * hsic(other, other)).sqrt()
    assert similarity(x, y) == pytest.approx(expected.item(), abs=1e-6)


def test_constant_features_give_zero():
    assert similarity(torch.ones(10, 3), torch.randn(10, 3)) == 0
