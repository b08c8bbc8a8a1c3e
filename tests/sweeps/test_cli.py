import subprocess
import sys

import pytest
import torch

from symbreak.sweeps.cli import COMMANDS, _normalize, main


@pytest.fixture(autouse=True)
def _keep_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["symbreak"])


def failure(capsys, *args):
    """Run a command that must fail; return its single line of complaint."""
    assert main(list(args)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_help_names_every_command_without_a_heavy_import():
    code = (
        "import sys; from symbreak.sweeps import cli\ntry: cli.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, _, modules = run.stdout.rstrip().rpartition("\n")
    assert all(f"  {command}" in listed for command in COMMANDS)
    heavy = {"torch", "pytorch_lightning", "wandb", "plotly", "pandas", "optuna", "numpy", "rich"}
    assert not heavy & set(modules.split())


def test_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fti"])
    assert exit_.value.code == 2
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--determinism.mode=fast",
            "determinism.mode: 'fast' is not allowed; allowed: nondeterministic, cudnn, strict",
        ),
        ("--model.init_args.init=foo", "model.init_args.init: 'foo' is not allowed; allowed: zero, he"),
        ("--model.init_args.depth=11", "depth"),
        ("--model.init_args.noise_scale=-1", "noise_scale"),
        ("--model.init_args.widen_factr=2", "did you mean 'model.init_args.widen_factor'?"),
        ("--determinsm.mode=strict", "did you mean 'determinism.mode'?"),
        ("--rounding_noise.ulps=-1", "-1"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
        ("--data=Moons", "'Moons'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(argument, expected, capsys, tmp_path):
    line = failure(capsys, "fit", argument, f"--run.dir={tmp_path / 'run'}")
    assert line.startswith("symbreak fit: error: ")
    assert expected in line


def test_options_take_dashes_and_switches_need_no_value():
    args = ["a-b.yaml", "--dry-run", "--gpus-per-run=2", "--online", "false", "--name", "x-y"]
    expected = ["a-b.yaml", "--dry_run=true", "--gpus_per_run=2", "--online", "false", "--name", "x-y"]
    assert _normalize(args, {"dry_run", "online"}) == expected


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "not found"), (b"PK\x03\x04 torn", "truncated"), ({"a": 1}, "not a checkpoint")]
)
def test_a_bad_checkpoint_is_one_line(content, expected, capsys, tmp_path):
    path = tmp_path / "bad.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    line = failure(capsys, "fit", f"--ckpt_path={path}", f"--run.dir={tmp_path / 'run'}")
    assert str(path) in line
    assert expected in line


def test_missing_data_names_the_folder(capsys, tmp_path):
    root = tmp_path / "nothing"
    options = ["--data=CIFAR10DataModule", f"--data.init_args.root={root}", f"--run.dir={tmp_path / 'run'}"]
    options += ["--wandb.mode=disabled", "--trainer.accelerator=cpu"]
    assert str(root) in failure(capsys, "fit", *options)


def test_a_mismatched_torchvision_is_explained(capsys, monkeypatch):
    def broken(command, args):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("symbreak.sweeps.cli._run", broken)
    assert "pip install --force-reinstall torch torchvision" in failure(capsys, "fit")
