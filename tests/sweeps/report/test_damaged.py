"""Reports of run folders whose files are empty, torn, of another kind, or gone."""

import json
import os
import shutil

import pytest

from symbreak.sweeps import cli
from symbreak.sweeps.report import writing as module
from symbreak.sweeps.report.figures import choose
from symbreak.sweeps.report.page import render
from symbreak.sweeps.report.table import load_runs
from symbreak.sweeps.report.writing import compose
from symbreak.sweeps.run.process import identity

FILES = ("run.json", "config.yaml", "metrics.csv", "summary.json")
CONTENTS = {
    "empty": b"",
    "null": b"null\n",
    "list": b"[1]\n",
    "number": b"3\n",
    "nan": b'{"status": NaN, "step": NaN, "environment": null, "trainer": null}\n',
    "wrong types": b'{"status": ["a"], "output_layers": 3, "environment": 1, "git": [], "command": "x", "model": 7}\n',
    "binary": bytes(range(256)),
    "header": b"step,symmetry/max_feature_asymmetry\n",
    "words": b"step,symmetry/max_feature_asymmetry\none,two\n\n0,,,,\n1,inf\n",
}


def copy(source, target):
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoints"))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_no_other_run(real_runs, tmp_path, name):
    whole = (real_runs / "2-noise" / name).read_bytes()
    contents = CONTENTS | {"half": whole[: len(whole) // 2], "all but a byte": whole[:-2]}
    copy(real_runs / "0-zero", tmp_path / "good")
    for kind, content in contents.items():
        (copy(real_runs / "2-noise", tmp_path / kind) / name).write_bytes(content)
    (copy(real_runs / "2-noise", tmp_path / "gone") / name).unlink()
    table = load_runs([tmp_path])
    names = [*table.runs["run"], *(skipped.name for skipped in table.skipped)]
    assert sorted(names) == sorted(["good", "gone", *contents])
    assert "good" in set(table.runs["run"])
    page = render(compose(table, choose(table)))
    assert all(skipped.reason in page for skipped in table.skipped)


def test_what_is_left_out_is_said_on_the_terminal(real_runs, tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("0-zero", "5-failed"):
        copy(real_runs / name, runs / name)
    for number in range(7):
        (copy(real_runs / "0-zero", runs / f"{number}-torn") / "config.yaml").write_text("3")
    assert cli.main(["report", str(runs), "-o", str(tmp_path / "report.html")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "left out of the report: 0-torn, 1-torn, 2-torn, 3-torn, 4-torn and 2 more "
        "(unreadable: config.yaml holds no mapping)",
        "left out of the report: 5-failed (the run failed)",
    ]


def test_a_point_whose_record_was_damaged_and_that_ran_again_counts_once(real_runs, tmp_path):
    (copy(real_runs / "1-noise", tmp_path / "1-noise") / "point.json").write_text('{"number": ')
    copy(real_runs / "1-noise", tmp_path / "1-noise.again2")
    copy(real_runs / "4-killed", tmp_path / "1-noise.again3")
    copy(real_runs / "2-noise", tmp_path / "2-noise")
    table = load_runs([tmp_path])
    assert list(table.runs["run"]) == ["1-noise.again2", "2-noise"]
    assert {skipped.name: skipped.reason for skipped in table.skipped} == dict.fromkeys(
        ("1-noise", "1-noise.again3"), "the point counts once, as 1-noise.again2"
    )


def test_a_finished_run_that_lost_a_file_is_named(real_runs, tmp_path, capsys):
    runs = tmp_path / "runs"
    copy(real_runs / "0-zero", runs / "0-zero")
    (copy(real_runs / "1-noise", runs / "1-noise") / "summary.json").unlink()
    (copy(real_runs / "2-noise", runs / "2-noise") / "metrics.csv").unlink()
    assert cli.main(["report", str(runs), "-o", str(tmp_path / "report.html")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "left out of the report: 2-noise (finished, but metrics.csv is lost)",
        "damaged: 1-noise (finished, but summary.json is lost)",
    ]
    assert load_runs([runs]).runs["status"].tolist() == ["finished", "damaged"]


def test_the_status_is_that_of_the_process(real_runs, tmp_path):
    elsewhere = {"host": "other", "pid": 1}
    for name, process, age in (("alive", identity(), 0), ("elsewhere", elsewhere, 1e5), ("gone", None, 0)):
        folder = copy(real_runs / "4-killed", tmp_path / name)
        state = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(state | {"process": process or state["process"]}))
        for file in folder.iterdir():
            os.utime(file, (file.stat().st_mtime - age,) * 2)
    table = load_runs([tmp_path])
    assert dict(zip(table.runs["run"], table.runs["status"], strict=True)) == {
        "alive": "running",
        "elsewhere": "silent",
        "gone": "killed",
    }
    page = render(compose(table, []))
    assert "3 runs in 1 arm · 1 running · 1 silent · 1 killed" in page
    assert "not by 17" in page


def test_layers_stand_in_the_networks_order_after_a_resume(real_runs):
    straight, resumed = (load_runs([real_runs / name]) for name in ("0-zero", "6-resumed"))
    for measure in ("symmetry/distinct_filters", "diversity/forward_correlation"):
        assert resumed.layers(measure) == straight.layers(measure)
    assert straight.layers("symmetry/distinct_filters")[0] == "stem"


def mistake(*_):
    return [float("no number")]


def test_a_mistake_in_the_report_is_an_internal_error(real_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "choose", mistake)
    command = ["report", str(real_runs / "0-zero"), "-o", str(tmp_path / "report.html")]
    assert cli.main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError" in line
    assert "SYMBREAK_TRACEBACK=1" in line
    monkeypatch.setenv("SYMBREAK_TRACEBACK", "1")
    assert cli.main(command) == 1
    assert "in mistake" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


SWEEP = """
name: tiny
program: anything
method: grid
command: ["${env}", "true"]
parameters: {x: {values: [1]}}
"""


def test_a_sweep_does_not_hide_a_mistake_in_its_report(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    command = ["sweep", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "runs"), "--workers", "1"]
    monkeypatch.setattr(module, "compose", mistake)
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    assert str(tmp_path / "runs" / "tiny") in out
    assert err.splitlines()[-1].startswith("symbreak sweep: error: ")
    assert "ValueError" in err.splitlines()[-1]
    assert not (tmp_path / "runs" / "tiny" / "report.html").exists()
