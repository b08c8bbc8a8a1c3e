import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from symbreak.sweeps.engine.driver import Driver
from symbreak.sweeps.engine.files import PatientFiles
from symbreak.sweeps.engine.study import Study
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.search import sweep_file


@pytest.fixture
def make_study(tmp_path):
    def make(method="grid", cap=None, extra=None, **form):
        content = {"method": method, "program": "p", "metric": {"name": "m"}, "run_cap": cap, **(extra or {})}
        form = form or {"values": [1, 2, 3]}
        return Study(sweep_file.parse(content | {"parameters": {"x": form}}, Path("s.yaml")), tmp_path, pytest.fail)

    return make


def begin(study):
    point = study.next()
    study.begin(point)
    return point


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_an_interrupted_point_comes_back_with_the_same_parameters(make_study, method):
    study = make_study(method, 4, min=0.0, max=1.0)
    lost = begin(study)
    x = lost.parameters["x"]
    study.end(lost, "interrupted")
    for current in (study, make_study(method, 4, min=0.0, max=1.0)):
        again = begin(current)
        assert (again.number, again.parameters["x"]) == (1, x)
        current.end(again, "interrupted")
    seen = []
    while (point := study.next()) is not None:
        study.begin(point)
        study.end(point, "finished", 1.0)
        seen.append(point.parameters["x"])
    assert len(seen) == len(set(seen)) == 4


def test_a_random_sweep_draws_the_same_points_in_any_number_of_calls(make_study, tmp_path):
    first = make_study("random", 3, min=0.0, max=1.0)
    drawn = []
    for call in range(3):
        study = first if not call else make_study("random", 3, min=0.0, max=1.0)
        point = begin(study)
        study.end(point, "finished", 0.5)
        drawn.append(point.parameters["x"])
    other = Study(first.sweep, None)
    together = []
    while (point := other.next()) is not None:
        point.status = "running"
        together.append(point.parameters["x"])
    assert drawn == together


def test_sweep_without_cap_always_has_one_more_point(make_study):
    study = make_study("random", None, min=0.0, max=1.0)
    assert study.total is None
    for number in range(1, 6):
        point = begin(study)
        assert point.number == number
        study.end(point, "finished")


def test_bayes_learns_from_the_runs_of_earlier_calls(make_study):
    study = make_study("bayes", 20, min=0.0, max=1.0)
    for _ in range(12):
        point = begin(study)
        study.end(point, "finished", (point.parameters["x"] - 0.7) ** 2)
    later = make_study("bayes", 20, min=0.0, max=1.0)
    mine, theirs = study.optimizer.study.trials, later.optimizer.study.trials
    assert [(trial.value, trial.params) for trial in mine] == [(trial.value, trial.params) for trial in theirs]


def test_outcomes_are_read_again(make_study):
    study = make_study(values=[1, 2, 3, 4, 5])
    for status, value, error in [
        ("finished", 0.5, ""),
        ("finished", None, ""),
        ("pruned", 0.7, ""),
        ("failed", None, "it broke\nbadly"),
        ("interrupted", None, ""),
    ]:
        point = begin(study)
        study.end(point, status, value, error)
    statuses = [point.status for point in study.points]
    assert statuses == ["finished", "finished", "pruned", "failed", "waiting"]
    later = make_study(values=[1, 2, 3, 4, 5])
    assert [point.status for point in later.points] == ["finished", "finished", "pruned", "waiting", "waiting"]
    assert [point.value for point in later.points][:3] == [0.5, None, 0.7]


@pytest.mark.parametrize(("status", "expected"), [("finished", "finished"), ("running", "waiting")])
def test_an_attempt_whose_driver_was_killed_is_closed_by_its_runs_own_record(make_study, tmp_path, status, expected):
    folder, _ = make_study().begin(make_study().points[0])
    (folder / "run.json").write_text(json.dumps({"status": status}))
    (folder / "summary.json").write_text(json.dumps({"m": 0.25}))
    point = make_study().points[0]
    assert (point.status, point.value) == (expected, 0.25 if status == "finished" else None)
    last = json.loads((folder / "attempts.json").read_text())["attempts"][-1]
    assert last["status"] == ("finished" if status == "finished" else "interrupted")


def test_a_grid_with_a_further_key_keeps_the_finished_folders(make_study, tmp_path):
    study = make_study(values=[1, 2])
    study.end(begin(study), "finished", 1.0)
    names = {path.name for path in tmp_path.iterdir()}
    later = make_study(values=[2, 1, 7])
    assert [(point.number, point.folder, point.status) for point in later.points] == [
        (1, "001-x=1", "finished"),
        (2, "", "waiting"),
        (3, "", "waiting"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == names


def test_changed_search_space_is_refused(make_study):
    make_study("random", 2, min=0.0, max=1.0)
    with pytest.raises(UsageError, match=r"s\.yaml: parameters: differs"):
        make_study("random", 2, min=0.0, max=2.0)


def test_a_record_is_written_when_the_disk_takes_it_again(tmp_path, monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr("symbreak.sweeps.engine.files.time.monotonic", lambda: now[0])
    files, path = PatientFiles(said.append), tmp_path / "full" / "a.json"
    files.write(path, {"a": 1})
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert not files.flush()
        assert files._next_try - now[0] == pause
        now[0] = files._next_try
        assert not files.flush()
    assert said == [f"{path} cannot be written: No such file or directory. Runs go on; it is tried again."]
    assert files.unwritten() == [path]
    path.parent.mkdir()
    assert files.flush(at_once=True)
    assert json.loads(path.read_text()) == {"a": 1}
    assert said[1:] == ["Writing works again."]
    assert list(path.parent.iterdir()) == [path]


def test_a_driver_waits_for_the_disk(make_study, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    study = make_study(values=[1])
    said: list[str] = []
    study.files.say = said.append
    driver = Driver(study, SimpleNamespace(free=lambda: 1))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(study, "begin", full)
    assert driver.step()
    assert study.points[0].status == "waiting"
    assert len(said) == 1
