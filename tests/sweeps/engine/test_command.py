import json
import random
import signal
import sys
from pathlib import Path

import pytest

from symbreak.sweeps.engine.driver import MOST_INTERRUPTIONS
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.folder import read_json, status

STUB = Path(__file__).with_name("stub.py")


def test_grid_runs_every_point_in_a_folder_of_its_own(stubs, capsys):
    stubs.write({"x": {"values": [1, 2.5]}, "flag": {"values": [True, None]}, "steps": {"value": 3}})
    assert stubs.run() == 0
    assert stubs.folders() == ["001-x=1_flag=true", "002-x=1_flag=null", "003-x=2.5_flag=true", "004-x=2.5_flag=null"]
    folder = stubs.runs / "003-x=2.5_flag=true"
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


def test_finished_points_are_never_repeated(stubs, capsys):
    stubs.write({"x": {"values": [1, 2]}})
    assert stubs.run() == 0
    assert stubs.run() == 0
    assert "All 2 runs of sweep stubs are done already." in capsys.readouterr().out
    stubs.write({"x": {"values": [3, 2]}})
    assert stubs.run() == 0
    assert stubs.starts() == ["001-x=1", "002-x=2", "003-x=3"]


def test_failing_run_does_not_stop_the_others_and_is_tried_again(stubs, capsys):
    stubs.write({"fail": {"values": [True, False]}})
    assert stubs.run() == 1
    assert "failed: the run gave up" in capsys.readouterr().out
    assert stubs.run() == 1
    assert stubs.starts() == ["001-fail=true", "001-fail=true.again2", "002-fail=false"]
    assert (stubs.runs / "001-fail=true" / "log.txt").read_text() == "the run gave up\n"


def test_killed_run_is_tried_again(stubs):
    stubs.write({"die": {"values": ["once", "never"]}})
    assert stubs.run() == 0
    assert stubs.starts() == ["001-die=once", "001-die=once.again2", "002-die=never"]
    note = json.loads((stubs.runs / "001-die=once" / "attempts.json").read_text())["attempts"]
    assert [attempt["status"] for attempt in note] == ["interrupted"]


def test_run_that_is_always_killed_counts_as_failed(stubs, capsys):
    stubs.write({"x": {"value": 1}}, command=["bash", "-c", "echo $$ >> $STUB_LOG; kill -9 $$"])
    assert stubs.run() == 1
    assert len(stubs.starts()) == MOST_INTERRUPTIONS
    assert f"killed {MOST_INTERRUPTIONS} times" in capsys.readouterr().out


def test_a_second_driver_is_refused_with_the_name_of_the_first(stubs):
    stubs.write({"x": {"values": [1, 2]}, "seconds": {"value": 0.5}})
    first = stubs.in_background()
    stubs.wait_for_starts(1)
    with pytest.raises(UsageError, match=rf"another driver runs this sweep: process {first.pid} on "):
        stubs.run()
    assert first.wait(60) == 0
    assert stubs.starts() == ["001-x=1", "002-x=2"]


def test_of_two_drivers_started_at_once_exactly_one_works(stubs):
    stubs.write({"x": {"values": [1, 2]}, "seconds": {"value": 1.0}})
    drivers = [stubs.in_background() for _ in range(2)]
    outputs = [driver.communicate(timeout=60)[0] for driver in drivers]
    assert sorted(driver.returncode == 0 for driver in drivers) == [False, True]
    assert sum("another driver runs this sweep" in output for output in outputs) == 1
    assert stubs.starts() == ["001-x=1", "002-x=2"]


def test_points_of_a_killed_driver_are_run_by_the_next(stubs):
    stubs.write({"x": {"values": [1, 2]}, "seconds": {"value": 0.4}})
    caller = stubs.in_background()
    stubs.wait_for_starts(1)
    caller.kill()
    caller.wait()
    assert stubs.run() == 0
    assert stubs.starts() == ["001-x=1", "001-x=1.again2", "002-x=2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly_and_the_next_call_goes_on(stubs, number):
    stubs.write({"x": {"values": [1, 2, 3]}, "seconds": {"value": 1.0}})
    caller = stubs.in_background(workers=1)
    stubs.wait_for_starts(2)
    caller.send_signal(number)
    assert "Interrupted. The same call goes on where this one ended" in caller.communicate(timeout=60)[0]
    assert caller.returncode == 128 + number
    assert len(stubs.starts()) == 2
    assert stubs.run() == 0
    assert stubs.starts() == ["001-x=1", "002-x=2", "002-x=2.again2", "003-x=3"]


def test_random_is_reproducible_and_capped(stubs):
    stubs.write({"x": {"min": 0.0, "max": 1.0}}, method="random", run_cap=3)
    assert stubs.run() == 0
    first = stubs.folders()
    assert len(first) == 3
    assert stubs.run(output=stubs.folder / "again") == 0
    assert sorted(folder.name for folder in (stubs.folder / "again" / "stubs").iterdir() if folder.is_dir()) == first


def test_bayes_with_hyperband_stops_bad_runs(stubs, capsys):
    stubs.write(
        {"x": {"values": [0, 9]}, "steps": {"value": 12}, "seconds": {"value": 0.05}},
        method="bayes",
        run_cap=6,
        metric={"name": "loss", "goal": "minimize"},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
    )
    assert stubs.run() == 0
    assert len(stubs.folders()) == 6
    assert "stopped early" in capsys.readouterr().out
    states = [status(folder, read_json(folder / "run.json")) for folder in stubs.runs.glob("0*")]
    assert set(states) == {"finished", "pruned"}


def test_target_ends_the_sweep(stubs):
    stubs.write({"x": {"values": [5, 0, 4]}}, metric={"name": "loss", "goal": "minimize", "target": 1})
    assert stubs.run(workers=1) == 0
    assert stubs.starts() == ["001-x=5", "002-x=0"]


def test_dry_run_prints_commands_and_starts_nothing(stubs, capsys):
    stubs.write({"x": {"values": [1, None]}})
    assert stubs.run(dry_run=True) == 0
    assert capsys.readouterr().out.splitlines() == [f"{sys.executable} -S {STUB} --x={x}" for x in (1, None)]
    assert not (stubs.folder / "runs").exists()


def test_changed_command_is_refused(stubs):
    stubs.write({"x": {"value": 1}})
    assert stubs.run() == 0
    stubs.write({"x": {"value": 1}}, command=["true"])
    with pytest.raises(UsageError, match=r"stubs\.yaml: command: differs"):
        stubs.run()


def test_a_second_interrupt_kills_runs_that_do_not_end(stubs):
    words = "trap '' TERM; echo $$ >> $STUB_LOG; while true; do sleep 0.1; done"
    stubs.write({"x": {"value": 1}}, command=["bash", "-c", words])
    caller = stubs.in_background()
    stubs.wait_for_starts(1)
    run = int(stubs.starts()[0])
    caller.send_signal(signal.SIGINT)
    assert any("Ctrl-C again kills them" in line for line in caller.stdout)
    assert Path(f"/proc/{run}").exists()
    caller.send_signal(signal.SIGINT)
    caller.communicate(timeout=20)
    assert caller.returncode == 130
    stat = Path(f"/proc/{run}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"  # dead, if not yet reaped
    (note,) = stubs.runs.glob("*/attempts.json")
    assert [each["status"] for each in json.loads(note.read_text())["attempts"]] == ["interrupted"]


@pytest.mark.parametrize("code", [130, 143])
def test_exit_codes_of_an_interrupted_script_are_no_failures(stubs, code):
    once = f"echo $$ >> $STUB_LOG; test -e died || {{ touch died; exit {code}; }}"
    stubs.write({"x": {"value": 1}}, command=["bash", "-c", f"cd $SYMBREAK_RUN_DIR/.. && {once}"])
    assert stubs.run() == 0
    notes = [json.loads(path.read_text())["attempts"] for path in sorted(stubs.runs.glob("*/attempts.json"))]
    assert [each["status"] for note in notes for each in note] == ["interrupted", "finished"]


@pytest.mark.parametrize("code", [255, 137, 1])
def test_exit_codes_of_a_script_are_failures_and_not_repeated(stubs, code):
    stubs.write({"x": {"value": 1}}, command=["bash", "-c", f"echo $$ >> $STUB_LOG; exit {code}"])
    assert stubs.run() == 1
    assert len(stubs.starts()) == 1


def test_crashes_are_repeated_as_often_as_asked(stubs):
    stubs.write({"fail": {"value": True}})
    assert stubs.run(retries=2) == 1
    assert stubs.starts() == ["001-run", "001-run.again2", "001-run.again3"]


def test_a_finished_sweep_keeps_its_folders_whatever_is_called(stubs):
    stubs.write({"x": {"values": [1, 2]}})
    assert stubs.run() == 0
    folder = stubs.runs
    before = {file: file.read_bytes() for file in folder.glob("0*/*")}
    stubs.write({"x": {"values": [1, 2]}, "flag": {"values": [True, False]}})
    assert stubs.run() == 0
    assert {file: file.read_bytes() for file in before} == before
    assert stubs.folders()[2:] == [
        f"00{n}-x={x}_flag={f}" for n, x, f in [(3, 1, "true"), (4, 1, "false"), (5, 2, "true"), (6, 2, "false")]
    ]


@pytest.mark.parametrize("name", ["point.json", "attempts.json"])
@pytest.mark.parametrize("seed", range(3))
def test_a_record_cut_short_is_named_and_nothing_is_lost(stubs, name, seed, capsys):
    stubs.write({"x": {"values": [1, 2]}})
    assert stubs.run() == 0
    file = stubs.runs / "001-x=1" / name
    content = file.read_bytes()
    file.write_bytes(content[: random.Random(seed).randrange(len(content) - 1)])  # the last byte is a line break
    capsys.readouterr()
    assert stubs.run() == 0
    output = capsys.readouterr().out
    assert (f"{file} cannot be read" in output) is (name == "point.json")
    assert stubs.folders() == ["001-x=1", "002-x=2", *(["003-x=1"] if name == "point.json" else [])]


def test_a_damaged_description_of_the_sweep_is_kept_and_made_again(stubs, capsys):
    stubs.write({"x": {"value": 1}})
    assert stubs.run() == 0
    file = stubs.runs / "sweep.json"
    file.write_text('{"method": "gr')
    assert stubs.run() == 0
    assert f"{file} cannot be read: it is kept as sweep.json.damaged" in capsys.readouterr().out
    assert file.with_name("sweep.json.damaged").read_text() == '{"method": "gr'
    assert len(stubs.starts()) == 1


def test_bayes_needs_the_metric_and_says_where_it_looked(stubs, capsys):
    stubs.write({"x": {"min": 0.0, "max": 1.0}}, method="bayes", run_cap=2, metric={"name": "val_loss"})
    assert stubs.run() == 1
    output = capsys.readouterr().out
    assert output.count("logged no number as 'val_loss', which counts as the worst: neither summary.json") == 2
    assert "No run logged a number as 'val_loss': nothing guided the sweep." in output
    assert stubs.run() == 1
    assert len(stubs.starts()) == 2


def test_a_finished_run_without_the_metric_counts_as_worst(stubs, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "x = float(sys.argv[1].split('=')[1])\n"
        "folder = pathlib.Path(os.environ['SYMBREAK_RUN_DIR'])\n"
        "(folder / 'summary.json').write_text(json.dumps({'step': 1} | ({'escape': x} if x > 0.5 else {})))\n"
    )
    stubs.write(
        {"x": {"min": 0.0, "max": 1.0}},
        method="bayes",
        run_cap=30,
        metric={"name": "escape", "goal": "maximize"},
        command=[sys.executable, str(script), "${args}"],
    )
    assert stubs.run() == 0
    output = capsys.readouterr().out
    assert "which counts as the worst" in output
    assert "failed" not in output
    drawn = [json.loads(file.read_text())["parameters"]["x"] for file in sorted(stubs.runs.glob("*/point.json"))]
    assert any(x <= 0.5 for x in drawn[:10])
    assert sum(x > 0.5 for x in drawn[10:]) > 15  # 20, of which a search without guidance puts 10 there
    assert stubs.run() == 0
    assert len(list(stubs.runs.glob("0*"))) == 30


def test_bayes_reads_the_metric_of_an_offline_wandb_run(stubs, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, wandb\n"
        "x = float(sys.argv[1].split('=')[1])\n"
        "with wandb.init(project='p', config={'x': x}) as run: run.log({'val_loss': x * x})\n"
    )
    stubs.write(
        {"x": {"min": 1.0, "max": 2.0}},
        method="bayes",
        run_cap=1,
        metric={"name": "val_loss"},
        command=["env", "WANDB_MODE=offline", sys.executable, str(script), "${args_no_hyphens}"],
    )
    assert stubs.run() == 0
    (folder,) = (stubs.runs).glob("001-*")
    attempt = json.loads((folder / "attempts.json").read_text())["attempts"][-1]
    x = json.loads((folder / "point.json").read_text())["parameters"]["x"]
    assert attempt["value"] == pytest.approx(x * x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers: at least 1"),
        ({"gpus_per_run": -1}, "--gpus-per-run: at least 0"),
        ({"cpus_per_run": 0}, "--cpus-per-run: at least 1"),
        ({"retries": -1}, "--retries: at least 0"),
    ],
)
def test_numbers_out_of_range_are_named(stubs, options, message):
    with pytest.raises(UsageError, match=message):
        stubs.write({"x": {"value": 1}}).run(**options)
