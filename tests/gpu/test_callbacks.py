import pytest
import torch
from tests.gpu.device import fresh, milliseconds_per_step, needs_cuda, synchronisations, trained_weights

from symbreak.callbacks import functional
from symbreak.callbacks.precision import exact_products

pytestmark = needs_cuda
WEIGHT_MEASURES = ["forward_correlation", "backward_correlation", "kernel_correlation", "distinct_rows", "asymmetry"]
FEATURE_MEASURES = ["feature_correlation", "input_cosine", "weight_correlations"]
MATRIX_MEASURES = ["effective_rank", "stable_rank", "numerical_rank", "mean_pairwise_correlation"]


def test_watching_changes_no_bit_of_what_is_trained():
    assert torch.equal(fresh(trained_weights, "strict"), fresh(trained_weights, "strict", True))


def test_watching_never_waits_for_the_device():
    assert fresh(synchronisations, "cudnn", True) == 0


def test_the_cost_of_watching_every_step_is_reported(record_property):
    """The order of the two is sure, since watching adds launches to a step of few; how far apart is reported."""
    plain, watched = fresh(milliseconds_per_step, "cudnn", False, True)
    record_property("milliseconds_per_step", {"plain": plain, "watched": watched})
    assert watched > plain > 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 12, 3, 3), (640, 320, 3, 3), (3, 1, 5), (7, 300)])
@pytest.mark.parametrize("name", [*WEIGHT_MEASURES, *MATRIX_MEASURES, *FEATURE_MEASURES])
def test_measures_on_the_device_equal_those_on_the_cpu_in_float64(name, shape, dtype, scale):
    measure = getattr(functional, name)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[1:3] = weight[0]
    weight = (weight * scale).to(dtype)
    weight = weight[:64].flatten(1)[:, :64] if name in MATRIX_MEASURES else weight
    values = measure(weight.cuda())
    values, expected = (x if isinstance(x, tuple) else (x,) for x in (values, measure(weight.double())))
    for value, reference in zip(values, expected, strict=True):
        assert value.is_cuda
        torch.testing.assert_close(value.cpu().double(), reference.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mean_pairwise_correlation", "feature_correlation", "input_cosine", "effective_rank"])
def test_tf32_of_the_training_does_not_reach_the_measures(name):
    rows = 3 + torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    torch.set_float32_matmul_precision("high")
    try:
        with exact_products():
            value = getattr(functional, name)(rows.cuda())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(value.cpu().double(), getattr(functional, name)(rows.double()), rtol=1e-5, atol=1e-6)


def test_identical_channels_have_no_asymmetry_on_the_device():
    row = torch.randn(1, 64, 3, 3, device="cuda")
    assert functional.asymmetry(row.expand(32, -1, -1, -1)).item() == 0
    assert functional.distinct_rows(row.expand(32, -1, -1, -1).contiguous()).item() == 1
