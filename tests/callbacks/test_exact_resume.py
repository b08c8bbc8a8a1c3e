import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.profilers import SimpleProfiler
from tests.callbacks.training import MemoryLogger
from torch.nn import Dropout, Flatten, Linear, Sequential
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from symbreak.callbacks import ExactResume, RoundingNoise
from symbreak.callbacks.plugins import AtomicCheckpointIO
from symbreak.callbacks.resume_state import random_state, set_random_state
from symbreak.datamodules import DigitsDataModule

SCRIPT = Path(__file__).with_name("exact_resume_processes.py")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(LightningModule):
    """Draws from all global generators, and logs the mean of every three steps."""

    def __init__(self):
        super().__init__()
        self.network = Sequential(Flatten(), Linear(64, 16), Dropout(0.3), Linear(16, 10))
        self.interval, self.validation = MeanMetric(), MeanMetric()
        self.events = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.network(images + 0.01 * random.random() * np.random.rand()), labels)
        self.interval.update(loss.detach())
        self.events.append((self.global_step, batch_idx, images.double().sum().item()))
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step % 3 == 0 and self.interval.update_count:
            self.log("train/loss", self.interval.compute())
            self.interval.reset()

    def on_train_epoch_start(self):
        self.events.append((self.global_step, "epoch starts"))

    def on_train_epoch_end(self):
        self.events.append((self.global_step, "epoch ends"))

    def validation_step(self, batch, batch_idx):
        self.validation.update(cross_entropy(self.network(batch[0] + 0.01 * torch.randn(())), batch[1]))

    def on_validation_epoch_end(self):
        self.log("val/loss", self.validation.compute())
        self.validation.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "step"}}


class BreakOff(Callback):
    """Raises in the middle of the step that follows `step` optimiser steps."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            raise InterruptedError


class Terminate(Callback):
    """Sends SIGTERM to its own process in the middle of the step that follows `step` optimiser steps."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


class PreemptibleLogger(MemoryLogger):
    """Has a W&B run's way to be marked."""

    def __init__(self):
        super().__init__()
        self.preempting = 0

    @property
    def experiment(self):
        return self

    def mark_preempting(self):
        self.preempting += 1


def build(folder, *callbacks, every_n_steps=1, logger=None, **options):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger or MemoryLogger(),
        callbacks=[ExactResume(str(folder), every_n_steps), RoundingNoise(ulps=4), *callbacks],
        log_every_n_steps=3,
        **{"max_epochs": 2, **quiet, **options},
    )
    return trainer, Network(), DigitsDataModule(batch_size=250, crop_padding=1, mixup=0.4)


def fit(folder, *callbacks, ckpt_path=None, **options) -> tuple[Any, Network]:
    trainer, model, data = build(folder, *callbacks, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer, model


def break_off(folder, step, **options) -> tuple[Any, Network]:
    trainer, model, data = build(folder, BreakOff(step), **options)
    with pytest.raises(InterruptedError):
        trainer.fit(model, datamodule=data)
    return trainer, model


def states(trainer, model):
    """Everything that must be equal, tensors as lists of exact values."""
    optimizer, scheduler = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
    raw = [model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), trainer.callbacks[1].state_dict()]
    return repr([tree_map_only(torch.Tensor, torch.Tensor.tolist, each) for each in raw])


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [3, 5, 7]),
        ({"max_steps": 8}, [3, 5, 7]),
        ({"val_check_interval": 2}, [2, 5, 6]),
        ({"val_check_interval": 1, "max_steps": 7}, [1, 5]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, [3, 5]),
        ({"check_val_every_n_epoch": 2}, [5]),
        ({"accumulate_grad_batches": 2}, [1, 3]),
        ({"limit_train_batches": 1, "max_epochs": 4}, [1, 3]),
    ],
    ids=str,
)
def test_interrupted_and_resumed_equals_straight(tmp_path, options, steps):
    straight, model = fit(tmp_path / "straight", **options)
    for step in steps:
        first, first_model = break_off(tmp_path / str(step), step, **options)
        resumed, rest_model = fit(tmp_path, ckpt_path=tmp_path / str(step) / "resume.ckpt", **options)
        assert resumed.global_step == straight.global_step
        assert states(resumed, rest_model) == states(straight, model)
        assert first.logger.rows + resumed.logger.rows == straight.logger.rows
        # The step that broke off had begun: its batch is seen again.
        count = len(model.events) - len(rest_model.events)
        assert first_model.events[:count] + rest_model.events == model.events


@pytest.mark.parametrize(
    ("steps", "saved", "options"),
    [
        (3, "epoch end", {}),
        (5, "epoch end", {}),
        (5, "validation end", {}),
        (7, "epoch end", {}),
        (7, "epoch end", {"val_check_interval": 2}),
        (8, "epoch end", {"check_val_every_n_epoch": 2}),
        (5, "epoch end", {"check_val_every_n_epoch": 2}),
        (10, "epoch end", {"check_val_every_n_epoch": None, "val_check_interval": 3}),
        (1, "epoch end", {"limit_train_batches": 1}),
        (3, "epoch end", {"accumulate_grad_batches": 2}),
    ],
    ids=str,
)
def test_a_run_that_ended_by_max_steps_is_extended_bit_for_bit(tmp_path, steps, saved, options):
    def run(name, steps, **more):
        last = ModelCheckpoint(tmp_path / name, save_last=True, save_on_train_epoch_end=saved == "epoch end")
        more |= {"enable_checkpointing": True, "every_n_steps": 0, "max_epochs": -1}
        return fit(tmp_path / name, last, max_steps=steps, **more, **options)

    straight, model = run("straight", 12)
    short, first_model = run("short", steps)
    extended, rest_model = run("extended", 12, ckpt_path=tmp_path / "short" / "last.ckpt")
    assert (short.global_step, extended.global_step, extended.current_epoch) == (steps, 12, straight.current_epoch)
    assert states(extended, rest_model) == states(straight, model)
    begun = [[event for event in each.events if event[1] != "epoch ends"] for each in (model, first_model, rest_model)]
    assert begun[1] + begun[2] == begun[0]


def test_checkpoints_of_other_callbacks_carry_the_state_too(tmp_path):
    def checkpoints():
        return ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=4)

    straight, model = fit(tmp_path, checkpoints(), enable_checkpointing=True, every_n_steps=0)
    assert not (tmp_path / "resume.ckpt").exists()
    again = fit(tmp_path, checkpoints(), enable_checkpointing=True, ckpt_path=tmp_path / "step=4.ckpt")
    assert states(*again) == states(straight, model)


def test_checkpoints_hold_plain_values_only(tmp_path):
    break_off(tmp_path, 2)
    checkpoint = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    assert list(checkpoint["exact_resume"]["ranks"][0]["metrics"]) == ["interval", "validation"]
    assert not list(tmp_path.glob("*.part"))


def test_it_saves_every_n_steps_between_two_steps(tmp_path):
    break_off(tmp_path, 8, every_n_steps=3)
    checkpoint = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["batches"] == 1


def test_sigterm_saves_marks_the_run_and_exits_with_143(tmp_path):
    logger, before = PreemptibleLogger(), signal.getsignal(signal.SIGTERM)
    trainer, model, data = build(tmp_path, Terminate(3), every_n_steps=0, logger=logger)
    with pytest.raises(SystemExit) as exit_:
        trainer.fit(model, datamodule=data)
    assert exit_.value.code == 143
    assert logger.preempting == 1
    assert trainer.global_step == 4
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = fit(tmp_path, ckpt_path=tmp_path / "resume.ckpt", every_n_steps=0)
    assert states(*resumed) == states(*fit(tmp_path, every_n_steps=0))


def test_sigterm_after_the_last_step_reaches_the_previous_handler(tmp_path):
    received = []

    def handler(signum, frame):
        received.append(True)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        trainer, _ = fit(tmp_path, Terminate(2), every_n_steps=0, max_steps=3)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trainer.global_step == 3
    assert received == [True]


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=fit, args=(tmp_path,), kwargs={"max_steps": 1})
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_users_profiler_goes_on_and_comes_back(tmp_path):
    profiler = SimpleProfiler()
    trainer, _ = fit(tmp_path, profiler=profiler, max_steps=2)
    assert trainer.profiler is profiler
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 2


def test_truncated_foreign_and_missing_checkpoints(tmp_path):
    break_off(tmp_path, 2)
    whole = (tmp_path / "resume.ckpt").read_bytes()
    path = tmp_path / "broken.ckpt"
    contents = {
        whole[: len(whole) // 2]: "is truncated",
        b"": "is empty",
        b"a text": "torch.save",
        whole[:-1]: "is truncated",
    }
    for content, said in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} .*{said}"):
            fit(tmp_path, ckpt_path=path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=rf"{path} is not a checkpoint of Lightning"):
        fit(tmp_path, ckpt_path=path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        fit(tmp_path, ckpt_path=tmp_path / "nowhere.ckpt")


def test_checkpoints_of_another_kind_of_run(tmp_path):
    break_off(tmp_path, 2)
    checkpoint = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    path = tmp_path / "other.ckpt"
    checkpoint["exact_resume"]["ranks"] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"saved by 2 process\(es\) and cannot be resumed exactly by 1"):
        fit(tmp_path, ckpt_path=path)
    del checkpoint["exact_resume"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="saved without ExactResume"):
        fit(tmp_path, ckpt_path=path)
    trainer, model, data = build(tmp_path)
    trainer.validate(model, datamodule=data, ckpt_path=path)


def test_a_failed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "some.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": 1}, path)

    def fail(checkpoint, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}


def test_a_dataloader_that_cannot_resume_is_named(tmp_path):
    trainer, model, _ = build(tmp_path, max_steps=1)
    data = TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8))
    with pytest.warns(UserWarning, match="cannot restore the position in the data"):
        trainer.fit(model, DataLoader(data, batch_size=4))


def test_random_state_comes_back():
    state = random_state(torch.device("cpu"))
    draws = [(random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()) for _ in range(2)]
    set_random_state(state, torch.device("cpu"))
    assert [(random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()) for _ in range(2)] == draws


def test_negative_steps():
    with pytest.raises(ValueError, match="every_n_steps must be 0"):
        ExactResume(every_n_steps=-1)


def run_script(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=SCRIPT.parents[2], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_processes_equal_straight_ones(tmp_path, ranks):
    result = run_script(tmp_path, ranks)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if " equal values" in line]
    assert [line.split(":")[0] for line in lines] == ["resident", "workers"]


def test_sigterm_to_one_of_two_ranks_saves_once_and_ends_both(tmp_path):
    result = run_script(tmp_path, "sigterm")
    assert result.returncode == 143, result.stderr
    checkpoint = torch.load(tmp_path / "terminated" / "resume.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 12
    assert len(checkpoint["exact_resume"]["ranks"]) == 2
