import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from symbreak.sweeps.engine import machine
from symbreak.sweeps.engine.command import first_points, sweep
from symbreak.sweeps.engine.job import Job
from symbreak.sweeps.engine.local import ForkServer
from symbreak.sweeps.run.folder import history as logged
from symbreak.sweeps.run.folder import read_json
from symbreak.sweeps.search import sweep_file

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
TWO_STEPS = [
    *("--data=DigitsDataModule", "--data.batch_size=8", "--trainer.max_steps=2", "--trainer.limit_val_batches=1"),
    *("--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
]


@pytest.fixture(scope="module")
def fork_server():
    return ForkServer()


def train_here(fork_server, command, folder, **variables):
    folder.mkdir(parents=True)
    environment = os.environ | {"SYMBREAK_RUN_DIR": str(folder), "WANDB_MODE": "disabled"} | variables
    run = fork_server.start(Job(command, str(folder), {}, cwd=str(ROOT)), environment)
    run.process.join()
    assert run.exit_code() == 0, (folder / "log.txt").read_text()
    return read_json(folder / "summary.json")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_one_point_of_each_sweep_trains(path, fork_server, tmp_path):
    experiment = sweep_file.load(path)
    point = first_points(experiment, 1)[0]
    command = sweep_file.strip_env(sweep_file.expand_command(experiment, point, tmp_path / "args.json"))
    (tmp_path / "args.json").write_text(json.dumps(point))
    narrow = {name: ["--model.widen_factor=1"] for name in ("cifar10", "cifar10_short")}
    narrow |= {"zero_rank": ["--model.width=64"]}
    narrow |= {"zero_mlp": ["--model.width=64", "--model.image_size=8"]}
    text = ["--data=TextDataModule", "--data.batch_size=8"] if "sweeps/configs/text.yaml" in command else []
    summary = train_here(fork_server, [*command, *TWO_STEPS, *narrow.get(path.stem, []), *text], tmp_path / "run")
    assert summary["step"] == 2
    assert {"train/loss", "test/accuracy", "symmetry/distinct_filters"} <= summary.keys()
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 2


def test_offline_wandb_run_holds_config_history_and_summary(fork_server, tmp_path):
    command = ["symbreak", "fit", "--config", "sweeps/configs/digits.yaml", "--model.noise_scale=0.5", *TWO_STEPS]
    summary = train_here(fork_server, command, tmp_path / "run", WANDB_MODE="offline")
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    run = json.loads(inspect(log, "--summary"))
    assert run["state"] == "finished"
    assert run["config"]["model.init_args.noise_scale"] == 0.5
    assert run["config"]["determinism.mode"] == "strict"
    numbers = {key: value for key, value in summary.items() if value is not None and key not in ("step", "epoch")}
    assert len(numbers) > 50
    assert {key: run["summary"][key] for key in numbers} == pytest.approx(numbers)
    records = [json.loads(line) for line in inspect(log).splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    losses = [item["train/loss"] for item in history if "train/loss" in item]
    assert losses == pytest.approx(logged(tmp_path / "run" / "metrics.csv", "train/loss"))
    assert len(losses) == 2


def inspect(log, *options):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, log]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_rank_sweep_equals_single_runs(tmp_path, monkeypatch):
    """No hang, one folder per point, and the same numbers as the same command on its own."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(ROOT)
    options = [*TWO_STEPS, "--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_false"]
    command = ["symbreak", "fit", "--config", "sweeps/configs/digits.yaml", *options]
    path = tmp_path / "ranks.yaml"
    parameters = {"seed_everything": {"values": [1, 2]}, "model.init_args.noise_scale": {"value": 0.1}}
    path.write_text(
        yaml.safe_dump({"method": "grid", "command": [*command, "${args}"], "parameters": parameters}, sort_keys=False)
    )
    assert sweep(path, workers=1, gpus_per_run=0, output=tmp_path / "runs") == 0
    folders = sorted(folder for folder in (tmp_path / "runs" / "ranks").iterdir() if folder.is_dir())
    assert [folder.name for folder in folders] == ["001-seed_everything=1", "002-seed_everything=2"]
    alone = [*command, "--seed_everything=2", "--model.init_args.noise_scale=0.1", f"--run.dir={tmp_path / 'alone'}"]
    monkeypatch.setenv("OMP_NUM_THREADS", str(machine.cores()))  # as many as the engine gives to its only worker
    subprocess.run([sys.executable, "-m", "symbreak.sweeps", *alone[1:]], check=True, capture_output=True)
    first, second, same = (read_json(folder / "summary.json") for folder in (*folders, tmp_path / "alone"))
    assert second == same
    assert first["train/loss"] != second["train/loss"]
    assert all(read_json(folder / "run.json")["environment"]["world_size"] == 2 for folder in folders)
