import copy
import math
import re

import pytest
import torch
from tests.callbacks.training import train

from symbreak.callbacks import RoundingNoise
from symbreak.lightning_modules import ConstNet


def noisy_gradients(noise, dtype=torch.float32, module=None):
    module = module or torch.nn.Linear(50, 40, dtype=dtype)
    gradients = [torch.ones_like(parameter) for parameter in module.parameters()]
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    noise.on_before_optimizer_step(None, None, torch.optim.SGD(module.parameters(), lr=1.0))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ulps", [1.0, 10.0, 100.0])
def test_rounding_noise_stays_within_its_ulps_and_fills_them(dtype, ulps):
    deviation = (noisy_gradients(RoundingNoise(ulps), dtype) - 1).abs() / torch.finfo(dtype).eps
    assert deviation.max() <= ulps
    assert deviation.max() > 0.9 * ulps - 0.5
    assert abs(deviation.mean() - ulps / 2) < 0.1 * ulps


def test_rounding_noise_is_off_at_zero():
    assert torch.equal(noisy_gradients(RoundingNoise()), torch.ones(2040))


@pytest.mark.parametrize("ulps", [-1, math.nan, math.inf, 1e308])
def test_numbers_that_are_no_width_are_refused(ulps):
    with pytest.raises(
        ValueError, match=rf"rounding_noise\.ulps={re.escape(str(ulps))}: expected 0 \(off\) to 4\.5e\+15"
    ):
        RoundingNoise(ulps)


@pytest.mark.parametrize(("precision", "most"), [("32-true", "8.4e+06"), ("bf16-true", "1.3e+02"), ("64-true", None)])
def test_a_width_is_checked_in_the_precision_of_the_run(precision, most):
    def run():
        train(ConstNet(depth=7, widen_factor=1), [RoundingNoise(2e9)], steps=1, precision=precision)

    if most is None:
        run()
        return
    with pytest.raises(ValueError, match=rf"rounding_noise\.ulps=2000000000\.0: expected .* {re.escape(most)}"):
        run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ulps", [0.3, 0.9, 1.0, 3.0])
def test_rounding_noise_has_no_sign(dtype, ulps):
    entries = 300_000
    module = torch.nn.Linear(entries, 1, bias=False, dtype=dtype)
    deviation = (noisy_gradients(RoundingNoise(ulps, seed=1), dtype, module).double() - 1) / torch.finfo(dtype).eps
    share = min(1, ulps**2 / 6)
    if ulps < 1:
        assert abs((deviation > 0).double().mean() - share) < 5 * math.sqrt(share / entries)
        assert abs((deviation < 0).double().mean() - share) < 5 * math.sqrt(share / entries)
    assert abs(deviation.mean()) < 5 * deviation.std() / math.sqrt(entries)
    assert deviation.std() == pytest.approx(ulps / math.sqrt(3), rel=0.25)  # a result of a few ulps is rounded itself


def test_rounding_noise_repeats_by_seed_and_resumes_from_its_state():
    noise, other = RoundingNoise(1, seed=3), RoundingNoise(1, seed=3)
    first, state = noisy_gradients(noise), copy.deepcopy(noise.state_dict())
    second = noisy_gradients(noise)
    assert torch.equal(first, noisy_gradients(other))
    assert not torch.equal(first, second)
    assert not torch.equal(first, noisy_gradients(RoundingNoise(1, seed=4)))
    saved_at_once = RoundingNoise(1, seed=3)
    saved_at_once.load_state_dict(state)
    resumed = RoundingNoise(1, seed=3)
    resumed.load_state_dict(saved_at_once.state_dict())
    assert torch.equal(second, noisy_gradients(resumed))


def test_rounding_noise_leaves_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    module = torch.nn.Linear(50, 40)
    torch.manual_seed(0)
    noisy_gradients(RoundingNoise(1), module=module)
    assert torch.equal(torch.rand(3), expected)
