"""Every measure on rows whose value can be told by hand, in every precision and at every scale."""

import pytest
import torch

from symbreak.callbacks.functional import (
    asymmetry,
    backward_correlation,
    cross_layer_correlation,
    distinct_rows,
    effective_rank,
    feature_correlation,
    forward_correlation,
    input_cosine,
    kernel_correlation,
    mean_pairwise_correlation,
    numerical_rank,
    stable_rank,
    weight_correlations,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCALES = [1.0, 1e-30, 1e30]
WAVE = torch.tensor([1.0, -1.0, 1.0, -1.0])
STEP = torch.tensor([1.0, 1.0, -1.0, -1.0])
"""Two vectors of mean 0 that are orthogonal, so that their correlation and their cosine are 0."""

IDENTICAL = torch.stack([WAVE, WAVE, WAVE])
ORTHOGONAL = torch.stack([WAVE, STEP, WAVE * STEP])
WITH_ZERO = torch.stack([WAVE, STEP, torch.zeros(4)])
ONE = WAVE[None]
TWO = torch.stack([WAVE, -WAVE])
ROWS = {"identical": IDENTICAL, "orthogonal": ORTHOGONAL, "a zero row": WITH_ZERO, "one row": ONE, "opposite": TWO}

# A zero row counts as correlation 1 with the two others, and as cosine 0.
KNOWN = {
    mean_pairwise_correlation: {"identical": 1, "orthogonal": 0, "a zero row": 2 / 3, "one row": 1, "opposite": -1},
    input_cosine: {"identical": 1, "orthogonal": 0, "a zero row": 0, "one row": torch.nan, "opposite": -1},
    asymmetry: {
        "identical": 0,
        "orthogonal": (2 / 3) ** 0.5,
        "a zero row": (2 / 3) ** 0.5,
        "one row": 0,
        "opposite": 1,
    },
    distinct_rows: {"identical": 1, "orthogonal": 3, "a zero row": 3, "one row": 1, "opposite": 2},
    effective_rank: {"identical": 1, "orthogonal": 3, "a zero row": 2, "one row": 1, "opposite": 1},
    stable_rank: {"identical": 1, "orthogonal": 3, "a zero row": 2, "one row": 1, "opposite": 1},
    numerical_rank: {"identical": 1, "orthogonal": 3, "a zero row": 2, "one row": 1, "opposite": 1},
}
CASES = [(function, name, value) for function, values in KNOWN.items() for name, value in values.items()]


def scaled(rows, dtype, scale):
    if dtype is torch.float16 and scale != 1:
        scale = 1e-3 if scale < 1 else 1e3  # what its range holds
    return (rows.double() * scale).to(dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("function", "name", "value"), CASES)
def test_measures_of_rows(function, name, value, dtype, scale):
    found = float(function(scaled(ROWS[name], dtype, scale)))
    assert found == pytest.approx(value, abs=2e-6, nan_ok=True)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "value"), {"identical": 1, "orthogonal": 0, "a zero row": 2 / 3, "one row": 1, "opposite": 1}.items()
)
def test_correlation_of_channels_is_absolute(name, value, dtype, scale):
    features = scaled(ROWS[name], dtype, scale)[None].expand(5, -1, -1)
    assert float(feature_correlation(features)) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "value"), {"identical": 1, "orthogonal": 1 / 3, "a zero row": 7 / 9, "one row": 1, "opposite": 0}.items()
)
def test_cosines_between_two_layers(name, value, dtype, scale):
    """With the same rows in both layers: all pairs, a row with itself included, and 1 for a zero row."""
    rows = scaled(ROWS[name], dtype, scale)
    assert float(cross_layer_correlation(rows, rows)) == pytest.approx(value, abs=2e-6)


def each_alone(weight):
    return forward_correlation(weight), backward_correlation(weight), kernel_correlation(weight)


@pytest.mark.parametrize("function", [weight_correlations, each_alone])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kernels", "values"),
    [
        ([[WAVE, WAVE], [WAVE, WAVE]], (1, 1, 1)),
        ([[WAVE, STEP], [WAVE, STEP]], (1, 0, 1 / 3)),
        ([[WAVE, WAVE], [STEP, STEP]], (0, 1, 1 / 3)),
        ([[WAVE, STEP], [-WAVE, -STEP]], (-1, 0, -1 / 3)),
        ([[WAVE, STEP]], (1, 0, 0)),
        ([[WAVE], [STEP]], (0, 1, 0)),
        ([[WAVE, WAVE], [0 * WAVE, 0 * WAVE]], (1, 1, 1)),
    ],
)
def test_correlations_of_weights(function, kernels, values, dtype, scale):
    weight = scaled(torch.stack([torch.stack(row) for row in kernels]), dtype, scale).unflatten(2, (2, 2))
    assert [float(value) for value in function(weight)] == pytest.approx(values, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_rows_of_integers_and_single_numbers_are_counted(dtype):
    assert distinct_rows(torch.tensor([3, 1, 3, 2], dtype=dtype)) == 3
    assert distinct_rows(torch.tensor([[3, 1], [3, 1], [1, 3]], dtype=dtype)) == 2
