import os
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
import torch
from PIL import Image

from symbreak.sweeps.cli import COMMANDS, _normalize, main
from symbreak.sweeps.run.folder import read_json


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
        ("--model.init_args.init=foo", "model.init_args.init: 'foo' is not allowed; allowed: default, zero, he"),
        ("--model.init_args.depth=11", "depth=11: ConstNet has depth 3n + 4 with n >= 1 (7, 10, 13, 16, ...)"),
        ("--model.init_args.noise_scale=-1", "noise_scale=-1.0: expected between 0 and 1e+06"),
        ("--model.init_args.widen_factr=2", "did you mean 'model.init_args.widen_factor'?"),
        ("--determinsm.mode=strict", "did you mean 'determinism.mode'?"),
        ("--rounding_noise.ulps=-1", "rounding_noise.ulps=-1.0: expected 0 (off) to 4.5e+15"),
        ("--rounding_noise.ulps=1e308", "rounding_noise.ulps=1e+308: expected 0 (off) to 4.5e+15"),
        ("--perturbation.scale=1e300", "perturbation scale=1e+300 is not allowed: 0 to 1e+06"),
        ("--model.init_args.noise_scale=1e300", "noise_scale=1e+300: expected between 0 and 1e+06"),
        (
            "--model=TransformerLM",
            "gives images, and TransformerLM takes text; choose --data TextDataModule",
        ),
        (
            "--data=TextDataModule",
            "gives text, and ConstNet takes images; choose --data DigitsDataModule",
        ),
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
    ("content", "expected"),
    [
        (None, "not found"),
        (b"", "is empty (0 bytes)"),
        (b"PK\x03\x04 torn", "truncated"),
        ({"a": 1}, "not a checkpoint"),
        ({"a": PurePosixPath("b")}, "holds Python objects, which are not unpickled here"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test", "trace"])
def test_a_bad_checkpoint_is_one_line(command, content, expected, capsys, tmp_path):
    path = tmp_path / "bad.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    line = failure(capsys, command, f"--ckpt_path={path}", f"--run.dir={tmp_path / 'run'}")
    assert str(path) in line
    assert expected in line
    assert "weights_only" not in line


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


def test_an_internal_error_shows_itself_as_one(capsys, monkeypatch):
    def broken(command, args):
        return {}["nothing"]

    monkeypatch.setattr("symbreak.sweeps.cli._run", broken)
    assert main(["report"]) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'nothing' (set SYMBREAK_TRACEBACK=1 to see where)" in said
    assert "Traceback" not in said
    monkeypatch.setenv("SYMBREAK_TRACEBACK", "1")
    assert main(["report"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "test_cli.py" in said


def test_ctrl_c_is_no_error(capsys, monkeypatch):
    def interrupted(command, args):
        raise KeyboardInterrupt

    monkeypatch.setattr("symbreak.sweeps.cli._run", interrupted)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "symbreak report: interrupted\n"


def test_a_reader_that_leaves_early_is_no_error():
    command = "symbreak.sweeps fit --help=all"
    script = f"{sys.executable} -m {command} | head -1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stderr == ""


@pytest.mark.parametrize("words", [["fit", "--help"], ["validate", "-h"], ["fit", "--config", "digits", "--help"]])
def test_the_help_of_a_run_is_one_screen_with_examples(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 110
    assert any(line.startswith(f"  symbreak {words[0]} --") for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--help"], "usage: symbreak fit"),
        (["fit", "--modle.depth=3"], "unknown key 'modle.depth'; did you mean 'model.depth'?"),
        (["fit", "--config=digts"], "did you mean 'digits'?"),
        (["fit", "--config=/dev/null"], "expected a mapping of keys to values, found nothing"),
    ],
)
def test_help_and_common_mistakes_wait_for_no_heavy_import(words, expected):
    code = f"import sys; from symbreak.sweeps import cli; cli.main({words!r}); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert expected in run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "False"


def test_a_class_in_the_current_folder_is_found_after_installed_ones(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "own_network.py").write_text("def network(num_classes): raise ValueError('found')")
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    words = ["--model=ImportedNetwork", "--model.network=own_network.network", "--wandb.mode=disabled"]
    assert "found" in failure_of_a_run(capsys, *words)
    assert sys.path[-1] == str(tmp_path)


def failure_of_a_run(capsys, *words):
    assert main(["fit", "--config=digits", *words]) != 0
    return capsys.readouterr().err


def test_an_error_in_a_network_of_the_users_own_names_its_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "odd_network.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n  def __init__(self): super().__init__(3, 10)\n"
        "  def forward(self, x): return super().forward(x)\n"
    )
    words = ["--model=ImportedNetwork", "--model.network=odd_network.Net", "--wandb.mode=disabled", "--run.dir=run"]
    said = failure_of_a_run(capsys, *words)
    assert "odd_network.py, line 4: RuntimeError: mat1 and mat2" in said
    assert "run/traceback.txt says where" in said
    assert "Traceback" in (tmp_path / "run" / "traceback.txt").read_text()
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"


def test_the_help_of_a_command_shows_options_as_they_are_written(capsys):
    assert main(["sweep", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--dry-run" in text
    assert "--gpus-per-run" in text
    assert "{true,false}" not in text
    assert "_" not in "".join(word for word in text.split() if word.startswith("--"))


def test_a_corrupt_image_is_named(capsys, tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                image = Image.new("RGB", (8, 8), (index, 0, 0))
                image.save(tmp_path / split / name / f"{index}.png")
    bad = tmp_path / "train" / "a" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    words = ["--data=ImageFolderDataModule", f"--data.init_args.root={tmp_path}", "--data.init_args.batch_size=2"]
    words += ["--data.init_args.image_size=8", "--data.init_args.crop_padding=0", "--trainer.max_steps=2"]
    line = failure(capsys, "fit", *words, f"--run.dir={tmp_path / 'run'}", "--wandb.mode=disabled")
    assert str(bad) in line


@pytest.mark.parametrize(
    ("mode", "project", "expected"), [("online", "p", "API key"), ("offline", "a/b?", "project name")]
)
def test_what_wandb_refuses_is_one_line(mode, project, expected, tmp_path):
    words = [
        "fit",
        "--config=digits",
        f"--wandb.mode={mode}",
        f"--wandb.project={project}",
        f"--run.dir={tmp_path / 'run'}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    run = subprocess.run(
        [sys.executable, "-m", "symbreak.sweeps", *words],
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
    )
    assert run.returncode == 2
    assert expected in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("words", "mode", "expected"),
    [
        ([], "foo", "WANDB_MODE: 'foo' is not allowed; allowed: auto, online, offline, disabled"),
        (
            ["--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1", "--lr_scheduler.total_steps=1"],
            "disabled",
            "Tried to step 2 times",
        ),
    ],
)
def test_more_bad_input_is_one_line(words, mode, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", mode)
    words = ["--config=digits", "--model.depth=7", "--trainer.max_steps=3", f"--run.dir={tmp_path / 'run'}", *words]
    assert expected in failure(capsys, "fit", *words)


def test_a_development_run_needs_no_loggers_and_writes_into_its_folder_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    words = ["--config=digits", "--model.depth=7", "--trainer.fast_dev_run=true", f"--run.dir={tmp_path / 'run'}"]
    assert main(["fit", *words]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
