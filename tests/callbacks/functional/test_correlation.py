import numpy as np
import pytest
import torch

from symbreak.callbacks.functional import (
    backward_correlation,
    cross_layer_correlation,
    feature_correlation,
    forward_correlation,
    kernel_correlation,
    mean_pairwise_correlation,
    weight_correlations,
)

SHAPES = [(6, 5, 3, 3), (5, 7), (4, 3, 1, 1), (2, 2, 5), (3, 1, 3, 3, 3), (1, 4, 3, 3)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}


def reference(rows):
    """The matrix of all pairs, as numpy.corrcoef gives it, with 1 for rows without variance."""
    rows = rows.double().numpy()
    if len(rows) == 1:
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.nan_to_num(np.corrcoef(rows), nan=1.0) if rows.shape[1] > 1 else np.ones((len(rows), len(rows)))
    return (matrix.sum() - len(rows)) / (len(rows) * (len(rows) - 1))


def views(weight):
    return weight.flatten(1), weight.transpose(0, 1).flatten(1), weight.reshape(weight.shape[0] * weight.shape[1], -1)


def single_functions(weight):
    return forward_correlation(weight), backward_correlation(weight), kernel_correlation(weight)


def weight_of(shape, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(sum(shape))
    return ((torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3) * scale).to(dtype)


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_three_equal_the_matrix_of_pairs(function, dtype, shape):
    weight = weight_of(shape, dtype)
    expected = [reference(rows) for rows in views(weight)]
    assert [float(value) for value in function(weight)] == pytest.approx(expected, abs=TOLERANCE[dtype])


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
@pytest.mark.parametrize("spread", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kinds", [1, 2])
def test_copies_of_kernels_that_vary_little_about_their_mean(function, spread, kinds):
    kernels = 1 + spread * torch.randn(kinds, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    weight = kernels.repeat_interleave(32, 0).expand(-1, 32, 3, 3).contiguous()
    expected = [reference(rows) for rows in views(weight)]
    assert [float(value) for value in function(weight)] == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float64, 1e-300)])
def test_the_scale_does_not_matter(function, dtype, scale):
    expected = [float(value) for value in function(weight_of((6, 5, 3, 3)))]
    assert [float(value) for value in function(weight_of((6, 5, 3, 3), dtype, scale))] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
def test_filters_of_very_different_sizes_count_alike(function):
    weight = weight_of((6, 5, 3, 3), torch.float32)
    sizes = torch.tensor([1e-30, 1e-12, 1, 1e3, 1e12, 1e30]).view(-1, 1, 1, 1)
    expected = [reference(rows) for rows in views(weight)]
    scaled = function(weight * sizes)
    assert float(scaled[0]) == pytest.approx(expected[0], abs=1e-6)
    assert float(scaled[2]) == pytest.approx(expected[2], abs=1e-6)
    assert float(scaled[1]) == pytest.approx(reference(views((weight * sizes).double())[1]), abs=1e-6)


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
@pytest.mark.parametrize("fill", [0.0, 0.1, -3e30])
def test_constant_rows_count_as_one(function, fill):
    weight = torch.full((4, 3, 3, 3), fill)
    assert [float(value) for value in function(weight)] == [1, 1, 1]
    weight[0, 1, 2, 2] = 1.0
    assert [float(value) for value in function(weight)] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("function", [weight_correlations, single_functions])
def test_rows_that_are_constant_but_for_the_last_digits_lose_nothing(function):
    generator = torch.Generator().manual_seed(0)
    weight = 1 + torch.randint(-8, 9, (8, 6, 3, 3), generator=generator) * 2.0**-22
    assert weight.dtype == torch.float32
    expected = [reference(rows) for rows in views((weight.double() - 1) * 2**22)]
    assert [float(value) for value in function(weight)] == pytest.approx(expected, abs=1e-6)


def test_identical_rows_opposite_rows_and_orthogonal_rows():
    row = torch.randn(9)
    assert float(mean_pairwise_correlation(row.repeat(5, 1))) == pytest.approx(1, abs=1e-6)
    assert float(mean_pairwise_correlation(torch.stack((row, -row)))) == pytest.approx(-1, abs=1e-6)
    hadamard = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    assert float(mean_pairwise_correlation(hadamard)) == pytest.approx(0, abs=1e-6)
    assert mean_pairwise_correlation(row[None]) == 1


def test_nan_is_not_hidden():
    weight = torch.randn(4, 3, 3, 3)
    weight[1, 1, 1, 1] = float("nan")
    assert all(value.isnan() for value in (*weight_correlations(weight), *single_functions(weight)))


def test_many_chunks_equal_one(monkeypatch):
    weight = weight_of((40, 7, 3, 3))
    whole = [float(value) for value in weight_correlations(weight)]
    monkeypatch.setattr("symbreak.callbacks.functional._numerics.CHUNK_ELEMENTS", 200)
    assert [float(value) for value in weight_correlations(weight)] == pytest.approx(whole, abs=1e-14)
    assert [float(value) for value in single_functions(weight)] == pytest.approx(whole, abs=1e-14)


def test_a_replica_dimension_is_mapped():
    weights = torch.stack([weight_of((4, 3, 3, 3)), weight_of((4, 3, 3, 3)) ** 2])
    for function in (weight_correlations, single_functions):
        mapped = torch.vmap(function)(weights)
        for index, weight in enumerate(weights):
            assert [float(value[index]) for value in mapped] == pytest.approx([float(v) for v in function(weight)])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "dim"), [((8, 5, 4, 4), 1), ((3, 7, 6), -1), ((9, 2), -1)])
def test_features_are_compared_by_channel(dtype, shape, dim):
    features = weight_of(shape, dtype)
    matrix = np.abs(np.corrcoef(np.moveaxis(features.double().numpy(), dim, 0).reshape(shape[dim], -1)))
    count = shape[dim]
    expected = (matrix.sum() - count) / (count * (count - 1))
    assert float(feature_correlation(features, dim)) == pytest.approx(expected, abs=TOLERANCE[dtype])


def test_a_dead_channel_counts_as_correlated():
    features = torch.randn(8, 3, 4, 4)
    features[:, 0] = 0
    alone = float(feature_correlation(features[:, 1:]))
    assert float(feature_correlation(features)) == pytest.approx((2 + alone) / 3, abs=1e-6)


def test_filters_of_two_layers_are_compared_by_cosine():
    a, b = weight_of((4, 3, 3, 3)), weight_of((6, 27))
    x, y = (w.flatten(1).numpy() / np.linalg.norm(w.flatten(1).numpy(), axis=1, keepdims=True) for w in (a, b))
    assert float(cross_layer_correlation(a, b)) == pytest.approx((x @ y.T).mean(), abs=1e-12)
    a[0] = 0
    x[0] = 0
    assert float(cross_layer_correlation(a, b)) == pytest.approx(((x @ y.T).sum() + 6) / 24, abs=1e-12)
    with pytest.raises(ValueError, match="equal fan-in"):
        cross_layer_correlation(a, b[:, :5])
