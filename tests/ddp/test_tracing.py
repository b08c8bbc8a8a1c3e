"""What separates filters lies between the ranks, on one of them, or nowhere; each rank must name the same."""

import json

import pytest
from tests.ddp.tracing import broadcast_gradients, command_line, found, plain_loop, recorded_all_reduce

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


def test_nothing_is_found_where_the_ranks_are_summed_in_order(ranks):
    for finding, traces, _ in (rank["ordered"] for rank in ranks):
        assert finding is None
        assert traces  # the head's first difference was replayed, and explained by the labels
        assert not any(trace.separations for _, trace in traces)


def test_a_break_on_one_rank_is_told_as_that_ranks_by_all(ranks):
    for finding, _, _ in (rank["local"] for rank in ranks):
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


def test_a_recording_holds_the_result_of_an_asynchronous_all_reduce():
    for made, result in run_ranks(recorded_all_reduce, 2):
        assert made == (result,)


def test_the_command_names_the_all_reduce_beside_the_audits_verdict_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    model = ["--model.init_args.depth=7", "--data.init_args.batch_size=40", "--trainer.enable_progress_bar=false"]
    ranks = ["--trainer.accelerator=cpu", "--trainer.devices=3", "--trainer.strategy=ddp"]
    config = ["--config=sweeps/configs/digits.yaml", *model, *ranks, f"--run.dir={tmp_path / 'run'}", "--steps=2"]
    run_ranks(command_line, 3, config)
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert trace["verdict"].startswith("symmetry broke at step 2: all-reduce over 3 ranks, gradient of blocks.")
    rows = [row for row in trace["rows"] if row["cause"] == "separation"]
    assert rows
    assert all(row["audit"].startswith("asymmetric in ") for row in rows)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["symmetry"]["cause"] == trace["verdict"]
