"""Run folders that `symbreak fit` makes, in every state in which a report may find them.

``python -m tests.sweeps.report.real_runs FOLDER`` makes them: the imports are paid once, and each run is a fork.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

from pytorch_lightning import Callback

from symbreak.sweeps.run.folder import latest_checkpoint

STEPS, END = 60, 20
FIT = (
    "fit",
    "--config=sweeps/configs/digits.yaml",
    "--model.init_args.depth=7",
    "--model.init_args.final_relu=false",
    f"--trainer.max_steps={STEPS}",
    "--trainer.log_every_n_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_model_summary=false",
    "--symmetry_breaking.every_n_steps=2",
)
NOISE = "--model.init_args.noise_scale="
RUNS = {
    "0-zero": (),
    "1-noise": (f"{NOISE}0.03",),
    "2-noise": (f"{NOISE}0.01",),
    "3-preempted": (f"{NOISE}0.02",),
    "4-killed": (f"{NOISE}0.001",),
    "5-failed": (f"{NOISE}0.01", "--seed_everything=1"),
    "6-resumed": (f"{NOISE}0.01", "--seed_everything=2"),
    "7-rounding": ("--rounding_noise.ulps=1e6",),
    "8-ranks": ("--trainer.devices=2", "--trainer.strategy.class_path=symbreak.callbacks.OrderedDDPStrategy"),
    "9-threshold": (f"{NOISE}0.03", "--symmetry_breaking.threshold=0.5"),
}
ENDS = {"3-preempted": "preempt", "4-killed": "kill", "5-failed": "fail", "6-resumed": "preempt"}


class EndAt(Callback):
    """End a run at a step as a cluster, a power cut or a mistake would.

    Args:
        step: When.
        how: SIGTERM, SIGKILL, or an exception.
    """

    def __init__(self, step: int, how: Literal["preempt", "kill", "fail"]) -> None:
        self.step, self.how = step, how

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step != self.step:
            return
        if self.how == "fail":
            raise RuntimeError("failed on purpose")
        for logger in trainer.loggers:
            logger.finalize("")  # what a second of training would have written
        os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGTERM)


def make(root: Path) -> None:
    """Make all runs below a folder."""
    from symbreak.sweeps import cli

    os.environ["WANDB_MODE"] = "disabled"
    ranks = subprocess.Popen([sys.executable, "-m", "symbreak.sweeps", *words(root, "8-ranks")])
    for name in RUNS:
        if name != "8-ranks":
            fork(cli.main, words(root, name))
    checkpoint = latest_checkpoint(root / "6-resumed")
    fork(cli.main, [*FIT, *RUNS["6-resumed"], f"--run.dir={root / '6-resumed'}", f"--ckpt_path={checkpoint}"])
    if ranks.wait() != 0:
        sys.exit("the run over two ranks failed")


def words(root: Path, name: str) -> list[str]:
    """Return a run's command line."""
    end = f'{{"class_path": "{__spec__.name}.EndAt", "init_args": {{"step": {END}, "how": "{ENDS.get(name)}"}}}}'
    ends = [f"--trainer.callbacks+={end}"] if name in ENDS else []
    return [*FIT, *RUNS[name], *ends, f"--run.dir={root / name}"]


def fork(function, *args) -> None:
    """Call a function in a fork, and wait for its end, whatever that is."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
