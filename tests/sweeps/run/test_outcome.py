import json
import os

import pandas as pd
import pytest

from symbreak.sweeps.run.outcome import Outcome, outcome_of, read_outcome
from symbreak.sweeps.run.process import identity
from symbreak.sweeps.run.record import Run, Skipped, read_run

SUMMARY = {
    "test/accuracy": 0.27123,
    "symmetry/distinct_filters": 1.0,
    "symmetry/distinct_filters/head": 10.0,
    "symmetry/distinct_filters/stem": 1.0,
    "symmetry/distinct_filters/conv": 1.0,
    "symmetry/growth_rate": None,
    "step": 40,
}
FINISHED = {"status": "finished", "output_layers": ["head"]}


@pytest.fixture
def outcome(tmp_path):
    def read(summary=SUMMARY, state=FINISHED) -> Outcome:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        (tmp_path / "run.json").write_text(json.dumps(state))
        return read_outcome(tmp_path)

    return read


def test_the_output_layer_is_the_one_noted_wherever_it_stands(outcome):
    assert outcome().distinct_filters == {"stem": 1, "conv": 1}
    assert list(outcome().cells().values()) == ["27.1%", "1 in 2 of 2 layers", "never", "never", "-"]


def test_ranges_and_what_was_not_measured(outcome):
    wide = SUMMARY | {"symmetry/distinct_filters/stem": 16.0, "symmetry/distinct_filters/conv": 64.0}
    assert outcome(wide).cells()["distinct filters"] == "16 to 64"
    assert set(outcome({}).cells().values()) == {"-"}


@pytest.mark.parametrize("ended", ["running", "interrupted", "preempted", "failed", "silent"])
def test_an_unfinished_run_is_censored_at_its_last_step(outcome, ended):
    seen = outcome(SUMMARY | {"symmetry/broken_step": 2.0}, FINISHED | {"status": ended, "process": identity()})
    assert (seen.broken_step, seen.escape_step, seen.censored_at) == (2, None, 40)
    assert seen.cells()["escape step"] == "not by 40"
    assert outcome().censored_at is None


def test_the_report_sees_what_the_terminal_sees(outcome, tmp_path):
    history = pd.DataFrame({"a": [1.0, 2.0]}, index=[0, 40])
    for status in ("finished", "interrupted"):
        run = Run("run", str(tmp_path), status, {}, SUMMARY, history, FINISHED)
        assert outcome_of(run) == outcome(SUMMARY, FINISHED | {"status": status})


def test_a_truncated_history_does_not_undo_what_the_summary_says(trained, tmp_path):
    for name in ("run.json", "summary.json", "config.yaml"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    whole = (trained / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(whole[: whole.index(b"\n") + 3])
    assert isinstance(read_run(tmp_path), Skipped)
    (tmp_path / "metrics.csv").write_bytes(b"step,train/loss\n1,2.5\n")
    run = read_run(tmp_path)
    assert isinstance(run, Run)
    assert outcome_of(run).escape_step == read_outcome(trained).escape_step == 0


@pytest.mark.parametrize("text", ["null", "[1]", "{", "", '{"a": NaN}', '"x"', "[" * 100_000])
def test_files_of_another_kind_have_no_outcome(tmp_path, text):
    for name in ("summary.json", "run.json"):
        (tmp_path / name).write_text(text)
    assert set(read_outcome(tmp_path).cells().values()) == {"-"}


def test_a_killed_run_is_told_from_a_running_one(outcome, tmp_path):
    from symbreak.sweeps.run.folder import read_json, status

    alive = identity()
    outcome(state={"status": "running", "process": alive})
    assert status(tmp_path, read_json(tmp_path / "run.json")) == "running"
    for gone in ({"pid": 2**22 + 1}, {"started": "1"}):
        assert status(tmp_path, {"status": "running", "process": alive | gone}) == "killed"
    for unknown in (None, [], {"host": "elsewhere", "pid": 1}, alive | {"pid": "x"}):
        assert status(tmp_path, {"status": "running", "process": unknown}) == "running"
        os.utime(tmp_path / "run.json", (0, 0))
        assert status(tmp_path, {"status": "running", "process": unknown}) == "silent"
        os.utime(tmp_path / "run.json")
