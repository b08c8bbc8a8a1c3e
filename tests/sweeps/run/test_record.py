import os

import numpy as np
import pytest
from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.sweeps.run.record import Run, Skipped, last_values, read_history, read_run, settings


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", config_of(noise=1e-3), steps=50, arm="noise")


def test_reads_config_history_summary_and_point(folder):
    run = read_run(folder)
    assert isinstance(run, Run)
    assert run.config["model.init_args.noise_scale"] == 1e-3
    assert run.point["arm"] == "noise"
    assert run.status == "finished"
    assert run.history.index.tolist() == list(range(0, 51, 5))
    assert run.summary["train/loss"] == run.history["train/loss"].iloc[-1]
    assert run.summary["test/accuracy"] == pytest.approx(run.history["val/accuracy"].iloc[-1] - 0.005)


def test_rows_of_one_step_are_merged_and_the_later_value_counts(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b\n0,1,\n0,,2\n1,3,\n1,4,\n")
    history = read_history(path)
    assert history.index.tolist() == [0, 1]
    np.testing.assert_array_equal(history.to_numpy(), [[1, 2], [4, np.nan]])


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n0,1\n1,0.00012")
    assert read_history(path)["a"].tolist() == [1.0]


def test_cells_that_are_no_numbers_become_nan(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,a,b\n0,1,x\nwhat,2,3\n1,inf,\xff\n2,nan,5,6,7\n3,8,9\n")
    history = read_history(path)
    assert history.index.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(history["a"], [1, np.inf, 8])
    np.testing.assert_array_equal(history["b"], [np.nan, np.nan, 9])


def test_last_values_skip_gaps_and_empty_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b,c\n0,1,2,\n1,3,,\n")
    assert last_values(read_history(path)) == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", "a: [1, 2", "unreadable"),
        ("config.yaml", "- a\n- b\n", "holds no mapping"),
        ("config.yaml", "a: !!python/object/apply:os.system ['touch owned']\n", "unreadable"),
        ("config.yaml", "a: \x00\n", "unreadable"),
        ("metrics.csv", "", "no complete row"),
        ("metrics.csv", "step,a", "no complete row"),
        ("metrics.csv", "a,b\n1,2\n", "no column `step`"),
        ("metrics.csv", "step,a\nx,2\n", "no complete row"),
    ],
)
def test_broken_folders_are_skipped_with_a_reason(folder, name, content, reason):
    (folder / name).write_text(content)
    skipped = read_run(folder)
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason
    assert not os.path.exists("owned")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
def test_folders_without_their_files_are_skipped(folder, name):
    (folder / name).unlink()
    skipped = read_run(folder)
    assert isinstance(skipped, Skipped)
    assert name in skipped.reason


@pytest.mark.parametrize("name", ["run.json", "summary.json", "point.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "nan"])
def test_a_torn_json_file_does_not_lose_the_run(folder, name, content):
    (folder / name).write_text(content)
    run = read_run(folder)
    assert isinstance(run, Run)
    assert run.summary["train/loss"] > 0


def test_a_failed_run_is_skipped_with_its_last_words(tmp_path):
    failed = write_run(tmp_path / "run", config_of(), 50, status="failed", error=["Traceback", "ValueError: no"])
    skipped = read_run(failed)
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "the run failed"
    assert skipped.detail == "Traceback\nValueError: no"


def test_a_run_that_has_long_written_nothing_is_called_silent(tmp_path):
    folder = write_run(tmp_path / "run", config_of(), 50, status="running")
    run = read_run(folder)
    assert isinstance(run, Run)
    assert run.status == "running"
    for name in ("metrics.csv", "run.json"):
        os.utime(folder / name, (0, 0))
    run = read_run(folder)
    assert isinstance(run, Run)
    assert run.status == "silent"


def test_settings_are_comparable():
    nested = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}
    assert settings(nested) == {"a.b": 1, "a.c": "{}", "d": '[1, {"e": 2}]', "f": None}
