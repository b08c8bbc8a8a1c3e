import sys

import pytest

from symbreak.sweeps import cli

SMALL = ["--config=digits", "--model.depth=7", "--trainer.log_every_n_steps=2", "--trainer.limit_val_batches=1"]
SMALL += ["--trainer.max_steps=4", "--run.test=false"]


@pytest.fixture
def symbreak(monkeypatch, tmp_path):
    """Run a command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["symbreak"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("SYMBREAK_RUN_DIR", str(tmp_path / "unnamed"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda *words: cli.main(list(map(str, words)))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run that broke symmetry early and ended by max_steps in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["symbreak"])
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("SYMBREAK_RUN_DIR", "unnamed")
        assert cli.main(["fit", *SMALL, f"--run.dir={folder}", "--model.noise_scale=0.3"]) == 0
    return folder
