"""What separates filters lies between the ranks, on one of them, or nowhere; each rank must name the same."""

import pytest
from tests.ddp.tracing import broadcast_gradients, found, plain_loop

from symbreak.callbacks.tracing.tracer import Trace
from symbreak.sweeps.audit.processes import run_ranks


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(found, 3)


@pytest.mark.parametrize("name", ["default", "bucket views", "several buckets", "manual"])
def test_the_all_reduce_over_three_ranks_is_named(ranks, name):
    for finding, _, unchanged in (rank[name] for rank in ranks):
        assert unchanged
        assert str(finding) == str(ranks[0][name][0])
        cause = finding.trace.cause
        assert (cause.kind, cause.operation) == ("separation", "all-reduce over 3 ranks")
        assert cause.subject.startswith("gradient of ")
        assert cause.subject.endswith("conv.weight")
        assert cause.unit == "filters"
        assert (finding.exact, finding.rank) == (True, 0)
        assert {event.operation for event in finding.trace.separations} == {cause.operation}


@pytest.mark.parametrize("name", ["ordered", "ordered bucket views"])
def test_nothing_is_found_where_the_ranks_are_summed_in_order(ranks, name):
    for finding, traces, unchanged in (rank[name] for rank in ranks):
        assert unchanged
        assert finding is None
        assert traces  # the head's first difference was replayed, and explained by the labels
        assert not any(trace.separations for _, trace in traces)


def test_a_break_on_one_rank_is_told_as_that_ranks_by_all(ranks):
    for finding, _, unchanged in (rank["local"] for rank in ranks):
        assert unchanged
        assert finding.rank == 1
        cause = finding.trace.cause
        assert (cause.kind, cause.operation, cause.place.phase) == ("values", "aten::linspace", "hook in backward")
        assert cause.place.line.function == "scaled"
        assert ", on rank 1" in str(finding)


def test_an_all_reduce_of_the_users_is_named_and_kept_apart_from_what_came_from_other_ranks():
    for result in run_ranks(plain_loop, 3):
        assert isinstance(result, Trace)
        assert result.cause is not None
        assert (result.cause.kind, result.cause.operation) == ("separation", "all-reduce over 3 ranks")
        assert result.cause.place.phase == "between backward and optimizer"
        assert result.cause.place.line is not None
        assert result.cause.place.line.function == "plain_loop"
    one, two = run_ranks(broadcast_gradients, 2)
    assert one.cause.operation == "aten::linspace"
    assert (two.cause.operation, two.cause.is_from_another_rank) == ("c10d::broadcast_", True)
    assert "values of another rank, c10d::broadcast_, gradient of stem.weight" in str(two)
