from datetime import UTC, datetime, timedelta

import pytest

from symbreak.sweeps.run import folder
from symbreak.sweeps.run.process import identity


@pytest.mark.parametrize(
    "text", [None, "", "model:\n", "trainer:\n", "trainer: {max_steps", "trainer: {max_steps: -1}"]
)
def test_half_written_run_folder_has_no_progress_yet(tmp_path, text):
    if text is not None:
        for name in ("config.yaml", "summary.json", "run.json", "metrics.csv"):
            (tmp_path / name).write_text(text)
    assert folder.max_steps(tmp_path) is None
    assert folder.fraction(tmp_path) == 0
    assert folder.read_json(tmp_path / "summary.json") == {}
    assert folder.history(tmp_path / "metrics.csv", "train/loss") == []


def test_progress_by_steps_or_epochs(tmp_path):
    (tmp_path / "summary.json").write_text('{"step": 30, "epoch": 2}')
    (tmp_path / "config.yaml").write_text("trainer: {max_steps: 40}")
    assert (folder.max_steps(tmp_path), folder.fraction(tmp_path)) == (40, 0.75)
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 8, max_steps: -1}")
    assert (folder.max_steps(tmp_path), folder.fraction(tmp_path)) == (None, 0.25)


def test_history_is_every_logged_value_in_order(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,other\n0,2.5,\n0,,1\n1,1.5,\n")
    assert folder.history(tmp_path / "metrics.csv", "loss") == [2.5, 1.5]
    assert folder.history(tmp_path / "metrics.csv", "none") == []


def test_last_lines_prefer_what_the_run_noted(tmp_path):
    assert folder.last_lines(tmp_path) == ""
    (tmp_path / "log.txt").write_text("".join(f"line {index}\n\n" for index in range(20)))
    assert folder.last_lines(tmp_path).splitlines() == [f"line {index}" for index in range(12, 20)]
    (tmp_path / "run.json").write_text('{"error": "ValueError: no"}')
    assert folder.last_lines(tmp_path) == "ValueError: no"


def test_the_time_of_a_run_leaves_out_the_pauses_between_its_attempts(tmp_path):
    first = {"started": "2026-05-04T10:00:00+00:00", "ended": "2026-05-04T10:00:20+00:00"}
    second = {"started": "2026-05-05T10:00:00+00:00", "ended": "2026-05-05T10:00:12+00:00"}
    folder.write_json(tmp_path / "run.json", {"started": first["started"], "ended": second["ended"]})
    assert folder.active_seconds(tmp_path, folder.read_json(tmp_path / folder.STATE)) == 24 * 3600 + 12
    folder.write_json(tmp_path / "attempts.json", {"attempts": [first, second]})
    assert folder.active_seconds(tmp_path, folder.read_json(tmp_path / folder.STATE)) == 32
    folder.write_json(tmp_path / "attempts.json", {"attempts": [first, {"started": "torn"}, 3]})
    assert folder.active_seconds(tmp_path, folder.read_json(tmp_path / folder.STATE)) == 20
    assert folder.active_seconds(tmp_path / "nothing", {}) is None


def test_the_time_of_a_running_run_reads_its_attempts_once(tmp_path, monkeypatch):
    start = {"started": (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")}
    folder.write_json(tmp_path / folder.ATTEMPTS, {"attempts": [start]})
    read, names = folder.read_json, []
    monkeypatch.setattr(folder, "read_json", lambda path: names.append(path.name) or read(path))
    state = start | {"status": "running", "process": identity()}
    folder.write_json(tmp_path / folder.STATE, state)
    assert folder.active_seconds(tmp_path, state) == pytest.approx(3600, abs=60)
    assert folder.active_seconds(tmp_path, state | {"process": identity() | {"started": "1"}}) is None
    assert names == [folder.ATTEMPTS] * 2
