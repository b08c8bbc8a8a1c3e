"""Run folders that `symbreak fit` makes, in every state in which a report may find them.

``python -m tests.sweeps.report.real_runs FOLDER`` makes them: the imports are paid once, and each run is a fork.
"""

import multiprocessing
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_only

from symbreak.sweeps import cli
from symbreak.sweeps.run.folder import SUMMARY, latest_checkpoint

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
DIVERGED = (f"{NOISE}0.03", "--optimizer.init_args.lr=1e6")
TEXT = (
    "fit",
    "--config=sweeps/configs/text.yaml",
    *(f"--model.init_args.{size}" for size in ("width=16", "hidden=16", "num_heads=2", "context=16")),
    "--data.init_args.context=16",
    "--data.init_args.batch_size=8",
    "--trainer.max_steps=12",
    "--trainer.log_every_n_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_model_summary=false",
    "--model.init_args.grow=widen",
    "--model.init_args.grow_step=4",
    "--clone_separation.every_n_steps=1",
    "--clone_separation.start_step=4",
    "--clone_separation.kinds=[neurons]",
)
COPIES = {"0-even": (), "1-uneven": ("--model.init_args.split=uneven",)}
ENDS = {"3-preempted": "preempt", "4-killed": "kill", "5-failed": "fail", "6-resumed": "preempt"}


HOW = "HOW_TO_END"


class EndAt(Callback):
    """End a run at a step as a cluster, a power cut or a mistake would: by SIGTERM, SIGKILL, or an exception.

    Which of them is in the environment, since a run's settings do not say how it will end.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        how = os.environ[HOW]
        if trainer.global_step != self.step or not how:
            return
        if how == "fail":
            raise RuntimeError("failed on purpose")
        for logger in trainer.loggers:
            logger.finalize("")  # what a second of training would have written
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM)


def make(root: Path) -> None:
    """Make `RUNS` and `COPIES` as if of two sweeps, and beside them a run that diverges."""
    import_module("symbreak.sweeps.run.command")  # the heavy imports, before the forks
    os.environ["WANDB_MODE"] = "disabled"
    run([*FIT, *DIVERGED, f"--run.dir={root / 'diverged'}"])
    for name, options in COPIES.items():
        run([*TEXT, *options, f"--run.dir={root / 'copies' / name}"])
    root = root / "sweep"
    for name in RUNS:
        os.environ[HOW] = ENDS.get(name, "")
        run(words(root, name), ranks=2 if name == "8-ranks" else 1)
    os.environ[HOW] = ""
    checkpoint = latest_checkpoint(root / "6-resumed")
    run([*FIT, *RUNS["6-resumed"], f"--run.dir={root / '6-resumed'}", f"--ckpt_path={checkpoint}"])
    if missing := [name for name in RUNS if not (root / name / SUMMARY).is_file()]:
        sys.exit(f"no run in {', '.join(missing)}")


def words(root: Path, name: str) -> list[str]:
    """Return a run's command line."""
    end = [f"--trainer.callbacks+={__spec__.name}.EndAt", f"--trainer.callbacks.step={END}"]
    return [*FIT, *RUNS[name], *end, f"--run.dir={root / name}"]


def run(command: list[str], ranks: int = 1) -> None:
    """Run a command in a fork per rank, and wait for their end, whatever that is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=be_a_rank, args=(command, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def be_a_rank(command: list[str], rank: int, ranks: int, port: str) -> None:
    """Run a command as the rank as which Lightning would start it by these variables."""
    if ranks > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        rank_zero_only.rank = rank
    sys.argv = ["symbreak", *command]
    sys.exit(cli.main(command))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
