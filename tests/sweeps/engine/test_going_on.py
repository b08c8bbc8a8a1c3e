"""A sweep of real runs goes on from their checkpoints."""

import json

import pytest
import yaml

from symbreak.sweeps.engine.command import sweep

FIT = [
    *("symbreak", "fit", "--config", "digits", "--model.depth=7", "--trainer.max_steps=4", "--wandb.mode=disabled"),
    *("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--data.batch_size=8", "${args}"),
]


@pytest.fixture
def call(tmp_path):
    path = tmp_path / "real.yaml"
    content = {"method": "grid", "command": FIT, "parameters": {"seed_everything": {"value": 1}}}
    path.write_text(yaml.safe_dump(content))
    return lambda: sweep(path, workers=1, gpus_per_run=0, output=tmp_path / "runs")


def interrupt(folder):
    """Leave a finished run as one that was killed during its test."""
    for name in ("run.json", "attempts.json"):
        content = json.loads((folder / name).read_text())
        last = content["attempts"][-1] if name == "attempts.json" else content
        last["status"] = "interrupted"
        (folder / name).write_text(json.dumps(content))


def test_a_run_killed_after_its_last_step_is_tested_and_bad_checkpoints_are_passed_over(call, tmp_path):
    assert call() == 0
    folder = tmp_path / "runs" / "real" / "001-run"
    accuracy = json.loads((folder / "summary.json").read_text())["test/accuracy"]
    interrupt(folder)
    assert call() == 0
    attempts = json.loads((folder / "attempts.json").read_text())["attempts"]
    assert [attempt["status"] for attempt in attempts] == ["interrupted", "finished"]
    assert [attempt["resumed"] for attempt in attempts] == [False, True]
    assert json.loads((folder / "summary.json").read_text())["test/accuracy"] == accuracy

    interrupt(folder)
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    assert call() == 0
    again = folder.with_name("001-run.again2")
    assert json.loads((again / "summary.json").read_text())["test/accuracy"] == accuracy
    assert [each["status"] for each in json.loads((again / "attempts.json").read_text())["attempts"]] == ["finished"]


def test_records_of_another_form_are_no_internal_error(call, tmp_path):
    assert call() == 0
    folder = tmp_path / "runs" / "real" / "001-run"
    (folder / "attempts.json").write_text('{"attempts": [7, {}]}')
    assert call() == 0
    assert json.loads((folder / "attempts.json").read_text())["attempts"][-1]["status"] == "finished"
