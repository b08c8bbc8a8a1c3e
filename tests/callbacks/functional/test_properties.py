"""Every pure function on drawn tensors (shape, dtype, size, copies, layout, NaN) against a reference in float64."""

import os

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from symbreak.callbacks import functional

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
PROPERTY = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 60, database=None)
SCALES = {
    torch.float64: (1e-150, 1e-3, 1.0, 1e150),
    torch.float32: (1e-30, 1e-3, 1.0, 1e30),
    torch.bfloat16: (1e-30, 1e-3, 1.0, 1e30),
    torch.float16: (1e-3, 1.0, 1e3),
}


def numbers(x):
    """The values in float64, divided by a power of two near the largest one, and that power."""
    x = x.double().numpy()
    largest = np.abs(x).max()
    scale = 2.0 ** np.floor(np.log2(largest)) if np.isfinite(largest) and largest > 0 else 1.0
    return x / scale, scale


def mean_of_pairs(matrix):
    n = len(matrix)
    return (matrix.sum() - n) / (n * (n - 1)) if n > 1 else 1.0


def correlation_matrix(x):
    rows = numbers(x)[0].reshape(len(x), -1)
    rows = rows / np.where(np.abs(rows).max(1, keepdims=True) == 0, 1, np.abs(rows).max(1, keepdims=True))
    constant = (rows == rows[:, :1]).all(1)
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(constant[:, None], 1, norm)
    return np.where(constant[:, None] | constant, 1, unit @ unit.T)


def pairwise(x):
    return mean_of_pairs(correlation_matrix(x))


def correlations(x):
    return [pairwise(x), pairwise(x.transpose(0, 1)), pairwise(x.flatten(0, 1))]


def feature_correlation(x):
    return mean_of_pairs(np.abs(correlation_matrix(x.movedim(1, 0))))


def directions(x):
    rows = numbers(x)[0].reshape(len(x), -1)
    rows = rows / np.where(np.abs(rows).max(1, keepdims=True) == 0, 1, np.abs(rows).max(1, keepdims=True))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm == 0, 1, norm)


def input_cosine(x):
    cosines, n = directions(x) @ directions(x).T, len(x)
    return (cosines.sum() - cosines.trace()) / (n * (n - 1)) if n > 1 else np.nan


def cross_layer(x):
    unit = directions(x)
    zero = ~unit.any(1)
    return np.where(zero[:, None] | zero, 1, unit @ unit.T).mean()


def asymmetry(x):
    values = numbers(x)[0]
    return np.sqrt(((values - values.mean(0)) ** 2).sum() / (values**2).sum()) if values.any() else 0.0


def distinct(x):
    whole = torch.empty(len(x), x[0].numel(), dtype=x.dtype).copy_(x.reshape(len(x), -1))
    return len({row.view(torch.uint8).numpy().tobytes() for row in whole})


def singular_values(x):
    return np.linalg.svd(numbers(x)[0].reshape(len(x), -1), compute_uv=False)


def effective_rank(x):
    values = singular_values(x)
    share = values[values > 0] / values.sum() if values.sum() else np.array([])
    return np.exp(-(share * np.log(share)).sum()) if len(share) else 0.0


def stable_rank(x):
    values = singular_values(x)
    return (values**2).sum() / values[0] ** 2 if values[0] else 0.0


def numerical_rank(x):
    values = singular_values(x)
    assume(not ((values > 0.5e-4 * values[0]) & (values < 2e-4 * values[0])).any())
    return (values > 1e-4 * values[0]).sum() if values[0] else 0


def of_matrix(function):
    return lambda x: function(x.flatten(1))


def with_itself(x):
    return functional.cross_layer_correlation(x, x.clone())


CASES = {
    "mean_pairwise_correlation": (functional.mean_pairwise_correlation, pairwise, 1),
    "forward_correlation": (functional.forward_correlation, pairwise, 2),
    "backward_correlation": (functional.backward_correlation, lambda x: pairwise(x.transpose(0, 1)), 2),
    "kernel_correlation": (functional.kernel_correlation, lambda x: pairwise(x.flatten(0, 1)), 2),
    "weight_correlations": (lambda x: torch.stack(functional.weight_correlations(x)), correlations, 2),
    "feature_correlation": (functional.feature_correlation, feature_correlation, 2),
    "input_cosine": (functional.input_cosine, input_cosine, 1),
    "cross_layer_correlation": (with_itself, cross_layer, 1),
    "asymmetry": (functional.asymmetry, asymmetry, 1),
    "effective_rank": (of_matrix(functional.effective_rank), effective_rank, 2),
    "stable_rank": (of_matrix(functional.stable_rank), stable_rank, 2),
    "numerical_rank": (of_matrix(functional.numerical_rank), numerical_rank, 2),
    "distinct_rows": (functional.distinct_rows, distinct, 1),
}
"""Function, reference, and the fewest dimensions it takes."""


def laid_out(x, layout):
    """The same values in another order of memory, or as part of a larger tensor."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        larger = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
        larger[..., ::2] = x
        return larger[..., ::2]
    if layout == "reversed":
        return x.flip(0).contiguous().flip(0)
    return x.clone()


@st.composite
def tensors(draw, dimensions=1, finite=True):
    shape = draw(st.lists(st.integers(1, 6), min_size=max(2, dimensions), max_size=4))
    dtype = draw(st.sampled_from(list(SCALES)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + draw(st.sampled_from([0.0, 0.3, 10.0]))
    kinds = draw(st.integers(1, shape[0]))
    x = x[torch.randint(0, kinds, (shape[0],), generator=generator)]
    x = x * (torch.rand(shape, generator=generator) >= draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])))
    x = (x * draw(st.sampled_from(SCALES[dtype]))).to(dtype)
    if not finite:
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    return laid_out(x, draw(st.sampled_from(["contiguous", "transposed", "strided", "reversed"])))


def tolerance(x):
    return 1e-9 if x.dtype == torch.float64 else 2e-5


@pytest.mark.parametrize("direct", [2**16, 0])
@pytest.mark.parametrize("name", CASES)
def test_the_value_is_that_of_the_reference(name, direct, monkeypatch):
    """Computed at once in float64, and as large tensors are."""
    monkeypatch.setattr("symbreak.callbacks.functional._numerics.DIRECT_ELEMENTS", direct)
    monkeypatch.setattr("symbreak.callbacks.functional.distinct.DIRECT_ELEMENTS", direct)
    function, reference, dimensions = CASES[name]

    @PROPERTY
    @given(tensors(dimensions))
    def check(x):
        before = x.clone()
        expected, value = reference(x), function(x)
        assert value.tolist() == pytest.approx(expected, abs=tolerance(x), rel=tolerance(x), nan_ok=True)
        assert torch.equal(x, before)

    check()


@pytest.mark.parametrize("name", CASES)
def test_a_leading_dimension_is_mapped(name):
    function, _, dimensions = CASES[name]

    @PROPERTY
    @given(tensors(dimensions))
    def check(x):
        both = torch.stack([x, x.flip(-1) * 0.5])
        values, alone = torch.vmap(function)(both), torch.stack([function(each) for each in both])
        torch.testing.assert_close(values, alone, rtol=tolerance(x), atol=tolerance(x), equal_nan=True)

    check()


@pytest.mark.parametrize("name", [name for name in CASES if name != "distinct_rows"])
def test_what_is_not_finite_is_not_hidden(name):
    function, _, dimensions = CASES[name]

    @PROPERTY
    @given(tensors(dimensions, finite=False))
    def check(x):
        assume(min(x.shape[:2]) > 1)
        assert function(x).isnan().any()

    check()


@PROPERTY
@given(tensors(finite=False))
def test_rows_are_counted_by_their_bits(x):
    assert functional.distinct_rows(x) == distinct(x)


@PROPERTY
@given(tensors())
def test_the_mean_square(x):
    values, scale = numbers(x)
    assume(0 < scale**2 < np.inf)
    assert float(functional.mean_square(x)) / scale**2 == pytest.approx((values**2).mean(), rel=1e-5)


@PROPERTY
@given(tensors())
def test_equal_slices_are_exactly_symmetric(x):
    assert functional.asymmetry(x[:1].expand(7, *x.shape[1:])) == 0


@PROPERTY
@given(st.floats(0.05, 3.0), st.integers(-5, 5), st.floats(1e-9, 1e-7))
def test_the_growth_of_an_exponential(rate, shift, start):
    steps = np.arange(shift, shift + 400)
    values = np.minimum(start * np.exp(rate * (steps - shift)), 0.9)
    fit = functional.growth(list(steps), list(values))
    assert fit is not None
    assert fit.rate == pytest.approx(rate)
    assert fit.r2 == pytest.approx(1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3, 3), (0, 2, 3, 3)])
def test_an_empty_tensor_is_refused(name, shape):
    with pytest.raises(ValueError, match=r"expected at least . dimension\(s\) and one entry, got shape"):
        CASES[name][0](torch.zeros(shape))


def test_the_mean_square_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        functional.mean_square(torch.zeros(0))
