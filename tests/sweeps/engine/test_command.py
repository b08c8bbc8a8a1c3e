import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from symbreak.sweeps.engine.command import sweep
from symbreak.sweeps.engine.study import ATTEMPTS
from symbreak.sweeps.errors import UsageError

STUB = Path(__file__).with_name("stub.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def make_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "started.txt"))

    def make(parameters, **content):
        content = {
            "name": "stubs",
            "method": "grid",
            "command": [sys.executable, "-S", str(STUB), "${args}"],
            "parameters": parameters,
        } | content
        path = tmp_path / "stubs.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return make


def run(path, **options):
    return sweep(path, **{"workers": 2, "gpus_per_run": 0, "output": path.parent / "runs", **options})


def run_folders(path):
    return sorted(folder.name for folder in (path.parent / "runs" / "stubs").iterdir() if folder.is_dir())


def starts(path):
    return sorted((path.parent / "started.txt").read_text().split())


def in_background(path, *, workers=1, storage=None):
    program = (
        "import signal, sys; from pathlib import Path; from symbreak.sweeps.engine.command import sweep\n"
        # A shell ignores SIGINT on behalf of what it runs in the background, this test included.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.exit(sweep(Path({str(path)!r}), workers={workers}, gpus_per_run=0, storage={storage!r}, "
        f"output=Path({str(path.parent / 'runs')!r})))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


def wait_for_starts(path, count):
    log, end = path.parent / "started.txt", time.monotonic() + 60
    while not log.exists() or len(starts(path)) < count:
        assert time.monotonic() < end, "the sweep did not start its runs"
        time.sleep(0.02)


def test_grid_runs_every_point_in_a_folder_of_its_own(make_sweep, capsys):
    path = make_sweep({"x": {"values": [1, 2.5]}, "flag": {"values": [True, None]}, "steps": {"value": 3}})
    assert run(path) == 0
    assert run_folders(path) == ["001-x=1_flag=true", "002-x=1_flag=null", "003-x=2.5_flag=true", "004-x=2.5_flag=null"]
    folder = path.parent / "runs" / "stubs" / "003-x=2.5_flag=true"
    assert json.loads((folder / "point.json").read_text()) == {
        "sweep": "stubs",
        "number": 3,
        "arm": "x=2.5, flag=true",
        "parameters": {"x": 2.5, "flag": True, "steps": 3},
    }
    assert json.loads((folder / "summary.json").read_text())["step"] == 3
    output = capsys.readouterr().out
    assert "[stubs] 3 x=2.5, flag=true finished: step 3/3" in output
    assert output.count("1 in 1 of 1 layers │") == 4


def test_finished_points_are_never_repeated(make_sweep, capsys):
    path = make_sweep({"x": {"values": [1, 2]}})
    assert run(path) == 0
    assert run(path) == 0
    assert "All 2 runs of sweep stubs are done already." in capsys.readouterr().out
    path = make_sweep({"x": {"values": [3, 2]}})
    assert run(path) == 0
    assert starts(path) == ["001-x=1", "002-x=2", "003-x=3"]


def test_failing_run_does_not_stop_the_others_and_is_tried_again(make_sweep, capsys):
    path = make_sweep({"fail": {"values": [True, False]}})
    assert run(path) == 1
    assert "failed: the run gave up" in capsys.readouterr().out
    assert run(path) == 1
    assert starts(path) == ["001-fail=true", "001-fail=true", "002-fail=false"]


def test_killed_run_is_tried_again(make_sweep):
    path = make_sweep({"die": {"values": ["once", "never"]}})
    assert run(path) == 0
    assert starts(path) == ["001-die=once", "001-die=once", "002-die=never"]


def test_run_that_is_always_killed_counts_as_failed(make_sweep, capsys):
    path = make_sweep({"x": {"value": 1}}, command=["bash", "-c", "echo $$ >> $STUB_LOG; kill -9 $$"])
    assert run(path) == 1
    assert len(starts(path)) == ATTEMPTS
    assert f"killed {ATTEMPTS} times" in capsys.readouterr().out


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/store.db"])
def test_two_callers_share_the_work_without_repeating_any(make_sweep, tmp_path, storage):
    storage = storage and storage.format(tmp_path)
    path = make_sweep({"x": {"values": list(range(12))}, "seconds": {"value": 0.05}})
    callers = [in_background(path, storage=storage) for _ in range(2)]
    assert [caller.wait(60) for caller in callers] == [0, 0]
    assert starts(path) == run_folders(path)
    assert len(starts(path)) == 12
    assert all("finished" in caller.communicate()[0] for caller in callers)


def test_points_of_a_killed_caller_are_run_by_the_next(make_sweep):
    path = make_sweep({"x": {"values": [1, 2]}, "seconds": {"value": 0.4}})
    caller = in_background(path)
    wait_for_starts(path, 1)
    caller.kill()
    caller.wait()
    assert run(path) == 0
    assert starts(path) == ["001-x=1", "001-x=1", "002-x=2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly_and_the_next_call_goes_on(make_sweep, number):
    path = make_sweep({"x": {"values": [1, 2, 3]}, "seconds": {"value": 1.0}})
    caller = in_background(path, workers=1)
    wait_for_starts(path, 2)
    caller.send_signal(number)
    assert "Interrupted" in caller.communicate(timeout=60)[0]
    assert caller.returncode == 130
    assert len(starts(path)) == 2
    assert run(path) == 0
    assert starts(path) == ["001-x=1", "002-x=2", "002-x=2", "003-x=3"]


def test_random_is_reproducible_and_capped(make_sweep):
    path = make_sweep({"x": {"min": 0.0, "max": 1.0}}, method="random", run_cap=3)
    assert run(path) == 0
    first = run_folders(path)
    assert len(first) == 3
    assert run(path, output=path.parent / "again") == 0
    assert sorted(folder.name for folder in (path.parent / "again" / "stubs").iterdir() if folder.is_dir()) == first


def test_bayes_with_hyperband_stops_bad_runs(make_sweep, capsys):
    path = make_sweep(
        {"x": {"values": [0, 9]}, "steps": {"value": 12}, "seconds": {"value": 0.05}},
        method="bayes",
        run_cap=6,
        metric={"name": "loss", "goal": "minimize"},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
    )
    assert run(path) == 0
    assert len(run_folders(path)) == 6
    assert "stopped early" in capsys.readouterr().out


def test_target_ends_the_sweep(make_sweep):
    path = make_sweep({"x": {"values": [5, 0, 4]}}, metric={"name": "loss", "goal": "minimize", "target": 1})
    assert run(path, workers=1) == 0
    assert starts(path) == ["001-x=5", "002-x=0"]


def test_dry_run_prints_commands_and_starts_nothing(make_sweep, capsys):
    path = make_sweep({"x": {"values": [1, None]}})
    assert run(path, dry_run=True) == 0
    assert capsys.readouterr().out.splitlines() == [f"{sys.executable} -S {STUB} --x={x}" for x in (1, None)]
    assert not (path.parent / "runs").exists()


def test_changed_command_is_refused(make_sweep):
    path = make_sweep({"x": {"value": 1}})
    assert run(path) == 0
    make_sweep({"x": {"value": 1}}, command=["true"])
    with pytest.raises(UsageError, match=r"stubs\.yaml: command: differs"):
        run(path)


@pytest.mark.parametrize("url", ["postgresql://me:secret@127.0.0.1:9/none", "nosuch://x", "sqlite:////nowhere/x.db"])
def test_unreachable_database_is_one_line_without_the_password(make_sweep, url):
    path = make_sweep({"x": {"value": 1}})
    with pytest.raises(UsageError, match=r"^--storage .*cannot be reached") as error:
        run(path, storage=url)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert not (path.parent / "started.txt").exists()
