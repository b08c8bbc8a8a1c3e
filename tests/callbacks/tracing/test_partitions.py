import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.callbacks.functional import distinct_rows
from symbreak.callbacks.tracing import partitions
from symbreak.callbacks.tracing.partitions import Partition, partition, refinement, separation_ulps

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def by_bytes(tensor, axis):
    rows = tensor.view(INTEGERS[tensor.element_size()]).movedim(axis, 0).numpy()
    rows = [row.tobytes() for row in rows]
    return [rows.index(row) for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.booleans(),
)
def test_groups_are_those_of_the_bytes(shape, dtype, seed, values, last):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, values, shape, generator=generator).to(dtype)
    tensor = tensor.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else tensor
    for axis in range(len(shape)):
        found = partition(tensor, axis)
        assert found.first.tolist() == by_bytes(tensor, axis)
        assert found.groups == len(set(by_bytes(tensor, axis)))


def test_slices_of_a_strided_view_are_told_apart_where_no_probe_looks():
    whole = torch.zeros(3, 20, 4)
    whole[1, 1, 0] = 1
    assert partition(whole[..., 0], 0).first.tolist() == [0, 1, 0]


def test_bits_count_and_views_are_read_as_they_are():
    zeros = torch.tensor([[0.0, 1], [-0.0, 1], [0.0, 1]])
    assert partition(zeros, 0).first.tolist() == [0, 1, 0]
    assert partition(torch.tensor([float("nan")] * 3), 0).is_trivial
    assert partition(torch.ones(1, 4).expand(5, 4), 0).is_trivial
    assert partition(torch.arange(6.0).view(2, 3).T, 0).is_discrete
    assert partition(torch.ones(3, 2, dtype=torch.complex64), 0).is_trivial


def test_one_late_difference_among_many_equal_slices_is_found():
    tensor = torch.ones(64, 9, 31, 31)
    tensor[37, 4, 0, 29] += 1e-6
    assert partition(tensor, 0).first.tolist() == [0 if i != 37 else 37 for i in range(64)]
    assert partition(tensor, 0).groups == int(distinct_rows(tensor)) == 2


def test_equal_hashes_of_different_slices_are_told_apart(monkeypatch):
    monkeypatch.setattr(partitions, "hash_rows", lambda rows: torch.zeros(len(rows), dtype=torch.int64))
    tensor = torch.ones(6, 50, 50)
    tensor[2, 3, 3] = tensor[4, 3, 3] = 2
    assert partition(tensor, 0).first.tolist() == [0, 0, 2, 0, 2, 0]


def test_refinement_repetition_and_separation():
    a, b = Partition(np.array([0, 0, 2, 2])), Partition(np.array([0, 1, 1, 1]))
    assert a.refine(b).first.tolist() == [0, 1, 2, 2]
    assert refinement([a, b], 4).groups == 3
    assert refinement([], 3).is_trivial
    assert a.repeat(2).first.tolist() == [0, 0, 0, 0, 4, 4, 4, 4]
    assert b.separated(a).tolist() == [False, True, False, False]
    assert not a.separated(a.refine(b)).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_separation_by_one_rounding_is_one_ulp_of_the_largest_entry(dtype):
    tensor = torch.full((4, 3), 1.5, dtype=dtype)
    tensor[2] *= 1 + 2 * torch.finfo(dtype).eps
    found = partition(tensor, 0)
    assert separation_ulps(tensor, 0, found, Partition(np.zeros(4, dtype=int))) in (2.0, 3.0)
