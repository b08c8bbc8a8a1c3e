"""Save weights and test logits of a run, to compare it with other runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.schedule import Schedule
from symbreak.callbacks.snapshot_files import FOLDER, LOGITS

MAX_BYTES = 2**28
"""Largest size of the test logits that are saved, in bytes."""


class Snapshots(Callback):
    """Save the weights at log-spaced steps, and the logits of the test set, in the run's folder.

    The snapshot of step t is ``snapshots/step-<t>.pt``: the module's state_dict (weights and buffers, on the CPU)
    before update t. A last one is saved when training ends. ``test_logits.npz`` holds ``logits`` (N, classes) as
    float16, ``predictions`` (N,), the argmax before rounding to float16, and ``labels`` (N,), in the order of the test
    set. Rank 0 writes files atomically. An existing snapshot is not overwritten: a resumed run recomputes the same one.

    Args:
        per_doubling: Snapshots between steps t and 2t; 0 saves none.
        every_n_steps: Steps between snapshots, instead of a log-spaced schedule.
        test_logits: Whether to save the logits of the test set.
        dirpath: Folder; by default the trainer's log folder.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        per_doubling: int = 0,
        every_n_steps: int | None = None,
        test_logits: bool = True,
        dirpath: str | None = None,
    ) -> None:
        if per_doubling < 0:
            raise ValueError(f"snapshots per_doubling must be 0 (none) or more, got {per_doubling}")
        self.schedule = Schedule(every_n_steps, per_doubling or 1) if per_doubling or every_n_steps else None
        self.test_logits, self.dirpath = test_logits, dirpath
        self._previous: int | None = None
        self._handle: RemovableHandle | None = None
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state of an earlier fit; a checkpoint's state is loaded after this."""
        if stage == "fit":
            self._previous = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the weights before an update that is due."""
        step = trainer.global_step
        if self.schedule is None or step == self._previous:
            return
        if self.schedule.is_due(step, self._previous):
            self._keep(trainer, pl_module)
        self._previous = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final weights."""
        if self.schedule is not None:
            self._keep(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the schedule."""
        return {"previous": self._previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position in the schedule."""
        self._previous = state_dict["previous"]

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.dirpath or trainer.log_dir or trainer.default_root_dir)

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self._folder(trainer) / FOLDER / f"step-{trainer.global_step:08d}.pt"
        if not trainer.is_global_zero or path.exists():
            return
        state = {name: value.detach().cpu() for name, value in pl_module.state_dict().items()}
        _write(path, lambda file: torch.save(state, file))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register a forward hook on the module."""
        if self.test_logits:
            self._logits, self._labels = [], []
            self._handle = pl_module.register_forward_hook(self._on_forward)

    def _on_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 2:
            self._logits.append(output.detach())

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the labels of a batch of ``(images, labels)``."""
        if self._handle is not None and isinstance(batch, (tuple, list)) and len(batch) == 2:
            self._labels.append(batch[1].detach())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the logits of all ranks, if every batch gave one matrix of logits."""
        if self._handle is None:
            return
        self._remove_hook()
        folder = self._folder(trainer)  # Lightning broadcasts it: call on all ranks
        logits, labels = self._logits, self._labels
        self._logits, self._labels = [], []
        own = None
        if logits and [len(each) for each in logits] == [len(each) for each in labels]:
            own = {name: value.cpu() for name, value in _columns(torch.cat(logits), torch.cat(labels)).items()}
        parts = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, own)
        found = [part for part in parts if part is not None]
        if not trainer.is_global_zero or len(found) < trainer.world_size:
            return
        arrays = {name: _in_order(trainer, [part[name].numpy() for part in found]) for name in found[0]}
        if sum(array.nbytes for array in arrays.values()) <= MAX_BYTES:
            save: Any = np.savez
            _write(folder / LOGITS, lambda file: save(file, **arrays))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the forward hook."""
        self._remove_hook()

    def _remove_hook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _in_order(trainer: Trainer, parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all ranks in the order of the test set, each once.

    The shards of this project's data are contiguous. A `DistributedSampler` deals single samples to the ranks in turn,
    and repeats some so that all ranks have equally many.
    """
    sampler = getattr(trainer.test_dataloaders, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return np.concatenate(parts)
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])[: len(sampler.dataset)]  # pyright: ignore[reportArgumentType]


def _columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    return {"logits": logits.half(), "predictions": logits.argmax(1).int(), "labels": labels.int()}


def _write(path: Path, save: Callable[[Any], Any]) -> None:
    """Write a file atomically, so that readers never see a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            save(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
