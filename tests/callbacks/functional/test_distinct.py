import pytest
import torch

from symbreak.callbacks.functional import distinct, distinct_rows
from symbreak.callbacks.functional.distinct import _distinct_by_order, count_of, neighbour_counts, slice_counts

METHODS = [
    distinct_rows,
    lambda rows: _distinct_by_order(rows.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])),
]


def count(rows):
    """The independent reference: the set of the rows' bytes."""
    return len(
        {bytes(torch.empty(row.shape, dtype=row.dtype).copy_(row).view(-1).view(torch.uint8).tolist()) for row in rows}
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 5), (64, 3, 3, 3), (33, 70, 2), (2, 1)])
def test_it_counts_the_rows_that_differ(method, dtype, shape):
    base = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = base[torch.randint(0, (len(base) + 1) // 2, (len(base),), generator=torch.Generator().manual_seed(1))]
    assert method(rows) == count(rows)
    assert method(base) == count(base)
    assert method(base[:1].expand_as(base).clone()) == 1


@pytest.mark.parametrize("method", METHODS)
def test_it_compares_bits_and_not_numbers(method):
    zeros = torch.zeros(4, 6)
    zeros[1, 3] = -0.0
    assert method(zeros) == 2
    nans = torch.full((3, 2), float("nan"))
    assert method(nans) == 1
    nans.view(torch.int32)[2, 1] += 1
    assert torch.isnan(nans).all()
    assert method(nans) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_patterns_of_signs_are_told_apart(method, dtype):
    signs = torch.tensor([[1.0]], dtype=dtype)
    for _ in range(7):
        signs = torch.cat((torch.cat((signs, signs), 1), torch.cat((signs, -signs), 1)))
    assert method(signs) == 128


def test_one_different_bit_far_from_the_probed_entries_is_found():
    rows = torch.ones(40, 4000)
    rows[17, 3999] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert distinct_rows(rows) == 2
    assert distinct_rows(rows.T) == 2


def test_a_transposed_view_is_counted_along_its_own_rows():
    weight = torch.randn(6, 4, 3, 3)
    weight[:, 2] = weight[:, 0]
    assert distinct_rows(weight.transpose(0, 1)) == 3


def test_a_collision_of_the_hash_never_gives_a_wrong_count(monkeypatch):
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [2.0, 3.0]])
    monkeypatch.setattr(distinct, "_multipliers", lambda count, device: torch.zeros(count, dtype=torch.int64))
    assert distinct_rows(rows) == 2
    assert torch.isnan(_distinct_by_order(rows.view(torch.int32)))


def test_replicas_are_counted_by_vmap():
    rows = torch.randn(5, 6, 4)
    rows[1, 3] = rows[1, 0]
    rows[2] = rows[2, 0]
    assert torch.vmap(distinct_rows)(rows).tolist() == [6, 5, 1, 6, 6]


@pytest.mark.parametrize("shape", [(5, 6, 4, 3, 3), (3, 7, 5), (2, 1, 3), (1, 4, 1, 2)])
@pytest.mark.parametrize("dim", [1, 2])
def test_slices_of_stacked_weights_are_counted_alike_in_both_ways(shape, dim):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kinds = torch.randint(0, max(1, shape[dim] // 2), (shape[dim],), generator=torch.Generator().manual_seed(1))
    weights = weights.index_select(dim, kinds)
    expected = [count(each.transpose(0, dim - 1).flatten(1).clone()) for each in weights]
    bits = weights.view(torch.int32)
    by_order = neighbour_counts(bits if bits.ndim > 3 else bits[..., None], dim)
    assert count_of(*slice_counts(weights, dim)).tolist() == expected
    assert count_of(*by_order).tolist() == expected
