import numpy as np
import pytest
import torch

from symbreak.callbacks.functional import asymmetry, growth

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def reference(x, dim):
    x = np.moveaxis(x.double().numpy(), dim, 0)
    return np.sqrt(((x - x.mean(0)) ** 2).sum() / (x**2).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "dim"), [((6, 4, 3, 3), 0), ((8, 5, 7, 7), 1), ((4, 9, 6), -1), ((2, 3), 0)])
def test_it_equals_its_formula(dtype, shape, dim):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1).to(dtype)
    assert float(asymmetry(x, dim)) == pytest.approx(reference(x, dim), rel=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_equal_channels_give_exactly_zero(dtype, scale):
    scale = scale ** (0.1 if dtype == torch.float16 else 1)
    one = (torch.randn(8, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    assert one.isfinite().all()
    assert one.count_nonzero() == one.numel()
    assert asymmetry(one.expand(8, 7, 5, 5), 1) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e37])
def test_tiny_and_huge_values_neither_overflow_nor_vanish(scale):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert float(asymmetry(x * scale)) == pytest.approx(float(asymmetry(x)), rel=1e-5)


def test_noise_of_one_ulp_shows():
    x = torch.ones(64, 10)
    x[3, 4] = 1 + 2**-23
    assert float(asymmetry(x)) == pytest.approx(2**-23 * np.sqrt(63 / 64 / 640), rel=1e-3)


def test_zero_is_symmetric_and_nan_is_not_hidden():
    assert asymmetry(torch.zeros(4, 3)) == 0
    assert asymmetry(torch.randn(1, 3)) == 0
    assert torch.isnan(asymmetry(torch.tensor([[1.0], [float("nan")]])))


def test_many_chunks_equal_one(monkeypatch):
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    whole = float(asymmetry(x))
    monkeypatch.setattr("symbreak.callbacks.functional._numerics.CHUNK_ELEMENTS", 64)
    assert float(asymmetry(x)) == pytest.approx(whole, rel=1e-6)


def test_growth_is_the_slope_of_the_logarithm():
    steps = list(range(0, 300, 5))
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(len(steps)))
    values = list(np.minimum(1e-8 * np.exp(0.08 * np.array(steps)) * noise, 0.8))
    inside = [(s, v) for s, v in zip(steps, values, strict=True) if 1e-6 <= v < 1e-2]
    x, y = np.array([s for s, _ in inside]), np.log([v for _, v in inside])
    fit = growth(steps, values)
    assert fit is not None
    assert fit.rate == pytest.approx(np.polyfit(x, y, 1)[0])
    assert fit.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_growth_takes_the_last_rise_and_starts_at_its_floor():
    values = [1e-5, 1e-4, 1e-3, 0.5, 4e-3, 1e-3, 2e-3, 4e-3, 8e-3, 0.3]
    fit = growth(range(10), values)
    assert fit is not None
    assert fit.rate == pytest.approx(np.log(2))
    assert fit.r2 == pytest.approx(1)


@pytest.mark.parametrize("values", [[], [0.0] * 9, [0.0, 0.0, 1e-3, 0.5], [0.5] * 5, [1e-5, 1e-4, 1e-3]])
def test_no_rise_no_growth(values):
    assert growth(range(len(values)), values) is None
