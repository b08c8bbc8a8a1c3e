"""What the README says can be typed: every command is parsed, every sweep and figure is there."""

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from symbreak.sweeps import cli
from symbreak.sweeps.run.arguments import prepare
from symbreak.sweeps.run.parser import resolve

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for kind, block in BLOCKS
    for line in block.splitlines()
    if not kind and line.startswith("symbreak ")
]


def test_there_are_commands_of_every_kind():
    assert {command[0] for command in COMMANDS} == set(cli.COMMANDS) - {
        "validate",
        "test",
        "audit",
        "dashboard",
    }


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "fit" and "--ckpt_path" not in c], ids=" ".join)
def test_runs_are_resolved(command):
    config = resolve(prepare(command))
    given = {word.removeprefix("--") for word in command if word.startswith("--") and "config" not in word}
    assert {key.replace("-", "_") for key in given} - {"model"} <= config.keys()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "sweep"], ids=" ".join)
def test_sweeps_are_there(command, capsys):
    assert (ROOT / "sweeps" / f"{command[1]}.yaml").is_file()
    assert cli.main(["sweep", command[1], "--dry-run"]) == 0
    assert "symbreak fit" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] not in ("fit", "sweep")], ids=" ".join)
def test_options_of_other_commands_are_known(command, capsys):
    with suppress(SystemExit):
        cli.main([command[0], "--help"])
    options = [word for word in command if re.fullmatch(r"--?[a-z-]+", word) and "." not in word]
    known = capsys.readouterr().out
    assert all(option in known or option in ("-o", "--config") for option in options)


def test_the_python_example_trains(tmp_path, monkeypatch):
    class YourModule(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def training_step(self, batch):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    import pytorch_lightning as pl

    (code,) = (block for kind, block in BLOCKS if kind == "python")
    monkeypatch.chdir(tmp_path)
    quiet = {"max_steps": 2, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    scope = {"your_module": YourModule(), "your_data": torch.utils.data.DataLoader(cast(Any, torch.randn(4, 4)), 2)}
    original = pl.Trainer
    monkeypatch.setattr(pl, "Trainer", lambda **options: original(**quiet, logger=False, **options))
    exec(code, scope | {"pl": pl})


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
