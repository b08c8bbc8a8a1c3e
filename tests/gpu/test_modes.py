import pytest
import torch
from tests.gpu.device import fresh, needs_cuda, switches_in_a_step, trained_weights, zero_const_net

from symbreak.callbacks.determinism import mode_switches
from symbreak.callbacks.modes import Mode

pytestmark = needs_cuda
MODES: list[Mode] = ["nondeterministic", "cudnn", "strict"]


@pytest.mark.parametrize("mode", MODES)
def test_the_switches_of_a_mode_hold_inside_a_step(mode):
    assert fresh(switches_in_a_step, mode) == mode_switches(mode)


def test_strict_training_repeats_bit_for_bit_in_another_process():
    one, other = fresh(trained_weights, "strict"), fresh(trained_weights, "strict")
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)


@pytest.mark.parametrize("mode", MODES)
def test_whether_zero_const_net_escapes_is_reported(mode, record_property):
    """Which kernels break the symmetry is the device's own; that the measures agree about it is not."""
    filters, found, _ = fresh(zero_const_net, mode, 300)
    broken, escaped, asymmetry = found["broken_step"], found["escape_step"], found["max_feature_asymmetry"]
    record_property("broken_step", broken)
    record_property("escape_step", escaped)
    record_property("distinct_filters", filters)
    assert len(broken) <= 1
    assert len(escaped) <= len(broken)
    assert asymmetry[0] < 1e-5
    if not broken:
        assert set(filters.values()) == {1}
    else:
        assert max(filters.values()) > 1


def test_strict_zero_const_net_is_the_same_in_another_process():
    (filters, found, one), (_, again, other) = (fresh(zero_const_net, "strict", 60) for _ in range(2))
    assert torch.equal(one, other)
    assert found == again
    assert len(filters) == 9


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs a device with TF32"
)
def test_tf32_is_off_unless_asked_for():
    from symbreak.callbacks import determinism_mode

    a, b = (torch.randn(256, 256, device="cuda", generator=torch.Generator("cuda").manual_seed(k)) for k in (0, 1))
    exact = a.double() @ b.double()
    errors = []
    for allow_tf32 in (False, True):
        with determinism_mode("cudnn", allow_tf32):
            errors.append(((a @ b).double() - exact).abs().max().item())
    assert errors[1] > 10 * errors[0] > 0
