import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.command import main
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.run.parser import resolve

CONFIGS = sorted(Path("sweeps/configs").rglob("*.yaml"))
SMALL = [
    "fit",
    "--config=sweeps/configs/digits.yaml",
    "--model.init_args.depth=7",
    "--trainer.max_steps=4",
    "--trainer.log_every_n_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["symbreak"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("SYMBREAK_RUN_DIR", str(tmp_path / "unnamed"))


def fit(path, *options):
    assert main([*SMALL, f"--run.dir={path}", *options]) == 0
    return path


def weights_hash(run):
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["symbreak"])
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("SYMBREAK_RUN_DIR", "unnamed")
        return fit(tmp_path_factory.mktemp("runs") / "run")


def test_a_run_leaves_its_config_history_summary_and_state(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"] == "symbreak.lightning_modules.ConstNet"
    assert config["model"]["init_args"]["depth"] == 7
    assert (
        config["optimizer"]["init_args"] | {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4}
        == (config["optimizer"]["init_args"])
    )
    summary = json.loads((run / "summary.json").read_text())
    assert {"train/loss", "train/accuracy", "test/loss", "test/accuracy"} <= set(summary)
    assert summary["symmetry/distinct_filters/blocks.0.conv"] == 1
    assert summary["symmetry/max_feature_asymmetry"] == 0
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "finished"
    assert state["determinism"]["deterministic_algorithms"] is True
    assert state["environment"]["torch"] == torch.__version__


def test_two_strict_runs_of_one_config_are_bit_identical(run, tmp_path):
    assert weights_hash(fit(tmp_path / "again")) == weights_hash(run)
    assert weights_hash(fit(tmp_path / "other", "--seed_everything=1")) != weights_hash(run)


def test_a_run_folder_is_not_overwritten(run):
    before = (run / "metrics.csv").read_text()
    with pytest.raises(UsageError, match=r"already holds a run; choose another --run.dir"):
        main([*SMALL, f"--run.dir={run}"])
    assert (run / "metrics.csv").read_text() == before


def test_a_run_resumes_in_its_folder(tmp_path):
    path = fit(tmp_path / "run")
    last = path / "checkpoints" / "last.ckpt"
    assert main([*SMALL, f"--run.dir={path}", f"--ckpt_path={last}", "--trainer.max_steps=6"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert json.loads((path / "summary.json").read_text())["step"] == 6


def test_a_checkpoint_is_tested_and_validated(run, tmp_path, monkeypatch):
    expected = json.loads((run / "summary.json").read_text())["test/accuracy"]
    for command, key in (("test", "test/accuracy"), ("validate", "val/accuracy")):
        monkeypatch.setattr(sys, "argv", ["symbreak"])
        options = [f"--config={run / 'config.yaml'}", f"--run.dir={tmp_path / command}"]
        assert main([command, *options, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"]) == 0
        value = json.loads((tmp_path / command / "summary.json").read_text())[key]
        if command == "test":
            assert value == expected


def test_resolve_gives_dotted_keys_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve(["fit", "--config=sweeps/configs/digits.yaml", "--rounding_noise.ulps=2"])
    assert config["model.init_args.depth"] == 10
    assert config["rounding_noise.ulps"] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_shipped_config_is_valid(config):
    assert resolve(["fit", f"--config={config}"])["model.class_path"].startswith("symbreak.lightning_modules.")


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2], "e": {}}}, "f": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "a.c.e": {},
        "f": None,
    }


def test_an_offline_wandb_run_holds_the_dotted_config(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = fit(tmp_path / "run", "--run.test=false")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    output = subprocess.run([*command, next(path.glob("wandb/offline-run-*"))], capture_output=True, check=True).stdout
    records = [json.loads(line) for line in output.splitlines()]
    config = next(record["run"]["config"]["update"] for record in records if record["type"] == "run")
    assert config["model.init_args.depth"] == 7
    assert not any(isinstance(value, dict) and value for key, value in config.items() if key != "_wandb")
