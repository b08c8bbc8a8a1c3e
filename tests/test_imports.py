"""Nothing heavier is imported than what is used."""

import subprocess
import sys

import pytest

from symbreak.sweeps.cli import COMMANDS

HEAVY = {"torch", "pytorch_lightning", "torchvision", "wandb", "plotly", "pandas", "sklearn", "scipy"}


def imported(code):
    """Return which heavy packages a new process has imported after some code."""
    code = f"import sys, io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n {code}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(run.stdout.split())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import symbreak.callbacks", set()),
        ("from symbreak.callbacks import functional; functional.asymmetry", {"torch"}),
        ("import symbreak.sweeps.report.command, symbreak.sweeps.report.writing", {"plotly", "pandas"}),
    ],
)
def test_a_package_imports_only_what_it_needs(code, expected):
    assert imported(code) == expected


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"validate", "test"}))
def test_the_help_of_a_command_waits_for_no_heavy_import(command):
    assert imported(f"from symbreak.sweeps.cli import main; main([{command!r}, '--help'])") == set()


def test_all_names_of_the_callbacks_exist():
    assert imported("from symbreak.callbacks import *; SymmetryBreaking.family") >= {"torch", "pytorch_lightning"}
