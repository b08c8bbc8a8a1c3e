import pytest
import torch
from torch import nn

from symbreak.lightning_modules.layers import Disout, ScalarBias, ScalarScale, make_regularizer


def test_scalars():
    x, bias, scale = torch.randn(3, 2), ScalarBias(), ScalarScale()
    assert bias(x).equal(x)
    assert scale(x).equal(x)
    nn.init.constant_(bias.bias, 2.0)
    nn.init.constant_(scale.scale, 3.0)
    assert bias(x).equal(x + 2)
    assert scale(x).equal(3 * x)


@pytest.mark.parametrize("shape", [(64, 8, 9, 9), (200, 300)])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_disout_replaces_about_the_stated_share(shape, alpha):
    x = 1 + torch.rand(shape)
    y = Disout(0.2, block_size=3, alpha=alpha)(x)
    share = y / x
    kept = torch.isclose(share, share.flatten().mode().values, rtol=1e-5)
    # Overlapping blocks leave a little more: 1 - (1 - rate / 9)^9 instead of the rate, less at the edges.
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.04)
    scale = 1 / kept.float().mean()
    torch.testing.assert_close(y[kept], x[kept] * scale, rtol=1e-4, atol=0)
    assert y[~kept].std().item() == pytest.approx(alpha * x.std().item() * scale.item(), rel=0.05, abs=1e-6)
    assert y[~kept].mean().item() == pytest.approx(0, abs=0.05 * alpha)


def test_disout_distorts_squares():
    distorted = Disout(0.05, block_size=3, alpha=0.0)(torch.ones(50, 4, 12, 12)) == 0
    padded = nn.functional.pad(distorted.float(), [2] * 4)
    squares = nn.functional.avg_pool2d(padded, 3, stride=1) > 0.99
    covered = nn.functional.max_pool2d(squares.float(), 3, stride=1)
    assert distorted.any()
    assert covered.bool().equal(distorted)


def test_disout_has_no_gradient_through_the_noise():
    x = torch.randn(16, 4, 8, 8, requires_grad=True)
    torch.manual_seed(1)
    y = Disout(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    assert len(x.grad.unique()) == 2
    assert x.grad.min() == 0


def test_disout_is_the_identity_in_evaluation_and_at_rate_0():
    x = torch.randn(4, 3, 5, 5)
    assert Disout(0.3).eval()(x) is x
    assert Disout(0.0)(x) is x


def test_disout_fits_small_maps_and_survives_a_full_rate():
    assert Disout(0.5, block_size=6)(torch.randn(4, 3, 2, 1)).isfinite().all()
    assert Disout(1.0)(torch.randn(4, 3, 2, 2)).isfinite().all()


@pytest.mark.parametrize(("kind", "layer"), [("dropout", nn.Dropout), ("disout", Disout)])
def test_make_regularizer(kind, layer):
    assert isinstance(make_regularizer(kind, 0.1), layer)
    assert isinstance(make_regularizer(kind, 0.0), nn.Identity)
    with pytest.raises(ValueError, match="dropout=2: expected between 0 and 1"):
        make_regularizer(kind, 2)


@pytest.mark.parametrize("arguments", [{"rate": -0.1}, {"rate": 0.1, "block_size": 0}, {"rate": 0.1, "alpha": -1}])
def test_disout_out_of_range(arguments):
    with pytest.raises(ValueError, match="expected"):
        Disout(**arguments)
