import pytest
import torch
from tests.gpu.device import fresh, milliseconds_per_step, needs_cuda, synchronisations, trained_weights

from symbreak.callbacks import functional

pytestmark = needs_cuda
WEIGHT_MEASURES = ["forward_correlation", "backward_correlation", "kernel_correlation", "distinct_rows", "asymmetry"]
MATRIX_MEASURES = ["effective_rank", "stable_rank", "numerical_rank", "mean_pairwise_correlation"]


def test_watching_changes_no_bit_of_what_is_trained():
    assert torch.equal(fresh(trained_weights, "strict"), fresh(trained_weights, "strict", True))


def test_watching_never_waits_for_the_device():
    assert fresh(synchronisations, "cudnn", True) == 0


def test_the_cost_of_watching_every_step_is_reported(record_property):
    plain, watched = (fresh(milliseconds_per_step, "cudnn", watch) for watch in (False, True))
    record_property("milliseconds_per_step", {"plain": plain, "watched": watched})
    assert plain > 0
    assert watched > 0


@pytest.mark.parametrize("name", [*WEIGHT_MEASURES, *MATRIX_MEASURES])
def test_measures_on_the_device_equal_those_on_the_cpu(name):
    measure = getattr(functional, name)
    weight = torch.randn(24, 12, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[5:9] = weight[4]
    weight = weight[:, :, 1, 1] if name in MATRIX_MEASURES else weight
    value = measure(weight.cuda())
    assert value.is_cuda
    torch.testing.assert_close(value.cpu().double(), measure(weight).double(), rtol=1e-6, atol=1e-9)


def test_identical_channels_have_no_asymmetry_on_the_device():
    row = torch.randn(1, 64, 3, 3, device="cuda")
    assert functional.asymmetry(row.expand(32, -1, -1, -1)).item() == 0
    assert functional.distinct_rows(row.expand(32, -1, -1, -1).contiguous()).item() == 1
