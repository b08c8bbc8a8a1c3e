"""Train ConstNet straight, and killed with SIGKILL and resumed, in processes of their own; compare everything.

Usage: python exact_resume_processes.py FOLDER RANKS
       python exact_resume_processes.py FOLDER sigterm
"""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers.logger import DummyLogger
from torch.utils._pytree import tree_leaves

from symbreak.callbacks import Determinism, ExactResume, FeatureDiversity, RoundingNoise, SymmetryBreaking
from symbreak.datamodules import DigitsDataModule, ImageFolderDataModule
from symbreak.lightning_modules import ConstNet

STEPS, EVERY_N_STEPS, KILLED_AT = 14, 4, 11  # five or six batches an epoch: saved and killed within the second


class LineLogger(DummyLogger):
    """Writes every row to a file at once."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def log_metrics(self, metrics, step=None):
        with self.path.open("a") as file:
            file.write(json.dumps([step, {key: float(value) for key, value in metrics.items()}], sort_keys=True) + "\n")


class Kill(Callback):
    """Sends a signal to some ranks' own processes in the middle of a step."""

    def __init__(self, signal_number, ranks):
        self.signal_number = signal_number
        self.ranks = ranks

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == KILLED_AT and trainer.global_rank in self.ranks:
            os.kill(os.getpid(), self.signal_number)


class Keep(Callback):
    """Keeps the final state of weights, optimiser and callbacks."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer: Any, pl_module):
        if trainer.is_global_zero:
            others = [each.state_dict() for each in trainer.callbacks if not isinstance(each, Keep)]
            torch.save([pl_module.state_dict(), trainer.optimizers[0].state_dict(), others], self.path)


def write_images(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 4)):
        for name in ("ape", "bat"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def data_module(folder, source, ranks):
    if source == "resident":
        return DigitsDataModule(batch_size=250 // ranks, crop_padding=1, cutout=2)
    options = {"image_size": 8, "crop": "resized", "resident": "never", "num_workers": 1}
    return ImageFolderDataModule(root=str(folder / "images"), batch_size=8 // ranks, mixup=0.3, **options)


def train(folder, name, source, ranks, *more, ckpt_path=None, strategy="ddp_fork"):
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    data = data_module(folder, source, ranks)
    model = ConstNet(depth=7, widen_factor=1, num_classes=data.num_classes, in_channels=data.in_channels, dropout=0.1)
    callbacks = [Determinism("strict"), RoundingNoise(ulps=2), FeatureDiversity(), SymmetryBreaking()]
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy if ranks > 1 else "auto",
        max_steps=STEPS,
        logger=LineLogger(folder / f"{name}.jsonl"),
        callbacks=[
            *callbacks,
            ExactResume(str(folder / name), EVERY_N_STEPS),
            Keep(folder / f"{name}.pt"),
            *more,
        ],
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)


def in_a_process(*arguments, **options):
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments, kwargs=options)
    process.start()
    process.join()
    return process.exitcode


def history(path):
    """{(step, key): value}; a value that was logged twice must be the same."""
    values = {}
    for step, row in map(json.loads, path.read_text().splitlines()):
        for key, value in row.items():
            assert values.setdefault((step, key), value) == value, (path, step, key)
    return values


def assert_equal(left, right):
    left, right = tree_leaves(left), tree_leaves(right)
    assert len(left) == len(right) > 20
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, (one, other)


def compare(folder, source, ranks):
    write_images(folder / "images")
    exit_code = in_a_process(folder, "killed", source, ranks, Kill(signal.SIGKILL, range(ranks)))
    # A launcher that forks the ranks reports their death and goes down with an error.
    assert exit_code == (-signal.SIGKILL if ranks == 1 else 1), exit_code
    assert not (folder / "killed.pt").exists()
    assert in_a_process(folder, "straight", source, ranks) == 0
    checkpoint = folder / "killed" / "resume.ckpt"
    assert in_a_process(folder, "resumed", source, ranks, ckpt_path=checkpoint) == 0
    assert_equal(*(torch.load(folder / f"{name}.pt", weights_only=True) for name in ("straight", "resumed")))
    straight, killed, resumed = (history(folder / f"{name}.jsonl") for name in ("straight", "killed", "resumed"))
    assert killed | resumed == straight
    assert resumed | killed == straight
    assert len(killed) < len(straight) > len(resumed) > 0
    print(f"{source}: {len(straight)} equal values, {len(resumed)} of them after the resume")


def main():
    if sys.argv[2] == "sigterm":
        folder = Path(sys.argv[1])
        train(folder, "terminated", "resident", 2, Kill(signal.SIGTERM, [0]), strategy="ddp")
    for source in ("resident", "workers"):
        folder = Path(sys.argv[1], source)
        folder.mkdir()
        compare(folder, source, int(sys.argv[2]))


if __name__ == "__main__":
    main()
