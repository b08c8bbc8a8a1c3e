import json
import shutil

import pytest
import torch
import yaml
from tests.sweeps.run.conftest import SMALL

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.folder import history, read_json
from symbreak.sweeps.run.outcome import read_outcome
from symbreak.sweeps.run.resume import KEY, Origin


def config_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def checkpoint_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def last(trained):
    return f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"


@pytest.fixture
def refusal(symbreak, capsys, tmp_path):
    """Run a command that must be refused in one line, before its folder is claimed; return the line."""

    def run(*words):
        capsys.readouterr()
        assert symbreak(*words, f"--run.dir={tmp_path / 'refused'}") == 2
        line = capsys.readouterr().err.strip()
        assert "\n" not in line
        assert not (tmp_path / "refused").exists()
        return line

    return run


def test_a_run_goes_on_with_the_settings_of_its_checkpoint(symbreak, trained, last, tmp_path):
    assert symbreak("fit", last, f"--run.dir={tmp_path / 'on'}", "--trainer.max_steps=6") == 0
    before, after = config_of(trained), config_of(tmp_path / "on")
    assert after["model"] == before["model"]
    assert after["trainer"] == before["trainer"] | {"max_steps": 6}
    assert after["run"] == {"dir": None, "test": False}
    assert checkpoint_of(tmp_path / "on")["global_step"] == 6


def test_a_callback_appended_again_replaces_that_of_the_run(symbreak, tmp_path):
    words = [*SMALL, f"--run.dir={tmp_path / 'run'}"]
    timer = "--trainer.callbacks+=pytorch_lightning.callbacks.Timer"  # its default interval is an enumeration's member
    option = "--trainer.callbacks.duration"
    pair = ["--trainer.callbacks+=LambdaCallback"] * 2
    assert symbreak("fit", *words, *pair, timer, f"{option}=00:01:00:00") == 0
    last = f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    assert symbreak("fit", *words, last, pair[0], timer, f"{option}=00:02:00:00", "--trainer.max_steps=6") == 0
    callbacks = config_of(tmp_path / "run")["trainer"]["callbacks"]
    names = [callback["class_path"].rpartition(".")[2] for callback in callbacks]
    assert names == [*["LambdaCallback"] * 3, "Timer"]  # one of two cannot be told to be meant
    assert callbacks[3]["init_args"] == {"duration": "00:02:00:00", "interval": "step", "verbose": True}


def test_a_run_in_a_new_folder_keeps_its_history_and_its_events(symbreak, trained, last, tmp_path):
    known = read_json(trained / "summary.json")
    events = {key: value for key, value in known.items() if "broken_step" in key or key == "symmetry/escape_step"}
    assert {"symmetry/broken_step", "symmetry/escape_step"} <= events.keys()
    assert symbreak("fit", last, f"--run.dir={tmp_path / 'on'}", "--trainer.max_steps=6") == 0
    summary = read_json(tmp_path / "on" / "summary.json")
    assert {key: summary[key] for key in events} == events
    steps = history(tmp_path / "on" / "metrics.csv", "step")
    assert steps[0] == 0
    assert max(steps) == 6
    assert read_json(tmp_path / "on" / "run.json")["resumed"]["step"] == 4


def test_events_come_from_the_checkpoint_where_the_history_is_lost(symbreak, trained, tmp_path):
    (tmp_path / "copy.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    words = [f"--ckpt_path={tmp_path / 'copy.ckpt'}", f"--run.dir={tmp_path / 'on'}", "--trainer.max_steps=6"]
    assert symbreak("fit", *words) == 0
    summary = read_json(tmp_path / "on" / "summary.json")
    assert (summary["symmetry/broken_step"], summary["symmetry/escape_step"]) == (0, 0)


def test_options_win_over_the_checkpoint(symbreak, last, tmp_path):
    options = ["--model.dropout=0.5", "--optimizer.lr=0.5", "--optimizer.momentum=0.1", "--trainer.max_steps=6"]
    assert symbreak("fit", last, f"--run.dir={tmp_path / 'on'}", *options) == 0
    config, checkpoint = config_of(tmp_path / "on"), checkpoint_of(tmp_path / "on")
    assert config["model"]["init_args"]["dropout"] == checkpoint["hyper_parameters"]["dropout"] == 0.5
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["momentum"]) == (0.5, 0.1)
    assert config["optimizer"]["init_args"] | {"lr": 0.5, "momentum": 0.1} == config["optimizer"]["init_args"]


def test_arguments_of_the_classes_of_the_checkpoint_need_no_class(symbreak, tmp_path):
    other = ["--model=MLP", "--model.width=8", "--optimizer=Adam", "--data.batch_size=32", "--trainer.max_steps=2"]
    first = tmp_path / "first"
    assert symbreak("fit", *SMALL, *other, "--model.depth=2", f"--run.dir={first}") == 0
    (tmp_path / "on.yaml").write_text(f"ckpt_path: {first / 'checkpoints' / 'last.ckpt'}\n")
    options = ["--optimizer.init_args.eps=1e-6", "--model.init_args.width=8", "--trainer.max_steps=4"]
    assert symbreak("fit", f"--config={tmp_path / 'on.yaml'}", f"--run.dir={tmp_path / 'on'}", *options) == 0
    assert config_of(tmp_path / "on")["optimizer"]["init_args"]["eps"] == 1e-6
    (group,) = checkpoint_of(tmp_path / "on")["optimizer_states"][0]["param_groups"]
    assert group["eps"] == 1e-6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model=LeakyNet"], "the checkpoint holds the weights of symbreak.lightning_modules.ConstNet, not of"),
        (["--model.depth=10"], "changed beside it: model.init_args.depth=10"),
        (["--model.widen_factor=2"], "is 16x16x3x3 in the checkpoint and 32x16x3x3 in the model"),
        (["--model.noise_scale=0.1"], "model.init_args.noise_scale: acts on the initial weights"),
        (["--seed_everything=3"], "seed_everything: acts on the initial weights"),
        (["--optimizer=Adam"], "optimizer.class_path: the state of the optimizer is that of another algorithm"),
        (["--trainer.max_steps=4"], "is at step 4, and trainer.max_steps is 4: nothing is left to train"),
        ([], "nothing is left to train"),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=0"], "is at the end of epoch 0, and trainer.max_epochs is 0"),
    ],
    ids=str,
)
def test_what_a_checkpoint_cannot_bear_is_refused(refusal, last, options, expected, tmp_path):
    words = options if not options or "max_steps" in options[0] else [*options, "--trainer.max_steps=6"]
    assert expected in refusal("fit", last, *words)


def test_a_learning_rate_that_a_schedule_sets_cannot_be_changed(tmp_path):
    origin = Origin(tmp_path / "a.ckpt", {"global_step": 1, "lr_schedulers": [{"last_epoch": 1}]})
    changes = {"optimizer.init_args.lr": (0.1, 0.2)}
    settings = {"trainer": {"max_steps": 9}, "lr_scheduler": None}
    origin.check_fit(changes, settings)
    with pytest.raises(
        UsageError, match=r"optimizer\.init_args\.lr: the schedule of the checkpoint goes on and sets it"
    ):
        origin.check_fit(changes, settings | {"lr_scheduler": {"class_path": "StepLR"}})


def test_a_checkpoint_without_settings_gives_its_network_and_optimizer(symbreak, trained, tmp_path):
    checkpoint = checkpoint_of(trained)
    del checkpoint[KEY]
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 0.2
    torch.save(checkpoint, tmp_path / "plain.ckpt")
    words = [f"--ckpt_path={tmp_path / 'plain.ckpt'}", f"--run.dir={tmp_path / 'on'}", *SMALL, "--trainer.max_steps=6"]
    assert symbreak("fit", *words) == 0
    config = config_of(tmp_path / "on")
    assert (config["optimizer"]["init_args"]["lr"], config["model"]["init_args"]["depth"]) == (0.2, 7)
    assert checkpoint_of(tmp_path / "on")["optimizer_states"][0]["param_groups"][0]["lr"] == 0.2


def test_other_data_in_the_middle_of_an_epoch_are_refused(symbreak, last, tmp_path, capsys):
    words = ["--data.batch_size=64", "--trainer.max_steps=6", f"--run.dir={tmp_path / 'run'}"]
    assert symbreak("fit", last, *words) == 2
    assert "global_batch_size was 128 and is 64" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["test", "validate"])
def test_commands_that_need_a_checkpoint_refuse_random_weights(refusal, command):
    assert "ckpt_path is missing" in refusal(command, *SMALL[:2])


@pytest.mark.parametrize("with_config", [False, True])
def test_a_checkpoint_is_validated_by_the_config_of_its_run(
    symbreak, trained, last, tmp_path, monkeypatch, with_config
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMBREAK_RUN_DIR")
    config = [f"--config={trained / 'config.yaml'}"] if with_config else []
    before = (trained / "run.json").read_text()
    assert symbreak("validate", *config, last) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert "val/accuracy" in json.loads((folder / "summary.json").read_text())
    assert (trained / "run.json").read_text() == before


def test_the_layer_that_runs_last_is_the_output_wherever_it_is_defined(symbreak, tmp_path):
    words = ["--config=digits", "--model=ImportedNetwork", "--model.network=tests.sweeps.run.networks.HeadFirst"]
    assert symbreak("fit", *words, "--trainer.max_steps=4", f"--run.dir={tmp_path / 'run'}") == 0
    assert read_json(tmp_path / "run" / "run.json")["output_layers"] == ["network.head"]
    assert read_outcome(tmp_path / "run").distinct_filters.keys() == {"network.body"}


def test_a_run_of_a_sweep_that_ended_before_its_last_checkpoint_saves_it(symbreak, trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "resume.ckpt")
    (run / "point.json").write_text("{}")
    monkeypatch.setenv("SYMBREAK_RUN_DIR", str(run))
    assert symbreak("fit", f"--ckpt_path={run / 'checkpoints' / 'resume.ckpt'}") == 0
    ours, theirs = checkpoint_of(run), checkpoint_of(trained)
    assert ours["global_step"] == theirs["global_step"]
    assert all(torch.equal(ours["state_dict"][name], value) for name, value in theirs["state_dict"].items())
