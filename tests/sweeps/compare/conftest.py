import sys

import pytest

from symbreak.sweeps.run.command import main

BASE = [
    "fit",
    "--config=digits",
    "--model.init_args.depth=7",
    "--model.init_args.init=he",
    "--trainer.max_steps=60",
    "--snapshots.per_doubling=2",
]
RUNS = {
    "base": [],
    "again": [],
    "bit": ["--perturbation.kind=bit", "--perturbation.step=3", "--perturbation.seed=1"],
    "bit_again": ["--perturbation.kind=bit", "--perturbation.step=3", "--perturbation.seed=1"],
    "order": ["--seeds.order=1"],
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return the folders of real runs: one, the same again, one bit changed (twice), another order of samples."""
    folder = tmp_path_factory.mktemp("compared")
    from symbreak.sweeps.run.arguments import prepare

    for name, options in RUNS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["symbreak"])
            patch.setenv("WANDB_MODE", "disabled")
            patch.setenv("SYMBREAK_RUN_DIR", str(folder / name))
            assert main(prepare([*BASE, f"--run.dir={folder / name}", *options])) == 0
    return {name: folder / name for name in RUNS}
