"""Snapshots: what a run keeps so that it can be compared with others."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.schedule import Schedule

FOLDER, LOGITS = "snapshots", "test_logits.npz"
MAX_BYTES = 2**28
"""Logits of a larger test set are not kept."""


class Snapshots(Callback):
    """Keep the weights at log-spaced steps, and the logits of the test set, in the run's folder.

    A snapshot of step t is ``snapshots/step-<t>.pt``: the module's state_dict (weights and buffers, on the CPU) before
    update t; a last one is taken when training ends. ``test_logits.npz`` holds ``logits`` (N, classes) as float16,
    ``predictions`` (N,), the largest logit before rounding, and ``labels`` (N,), in the order of the test set. Files
    are written by rank 0, atomically; a snapshot that exists is kept as it is, because a resumed run computes it again.

    Args:
        per_doubling: Snapshots between steps t and 2t; 0 keeps none.
        every_n_steps: Distance of two snapshots in place of log-spaced ones.
        test_logits: Whether the logits of the test set are kept.
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
        """Forget an earlier fit; the state of a checkpoint is loaded after this."""
        if stage == "fit":
            self._previous = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the weights before an update that is due."""
        step = trainer.global_step
        if self.schedule is None or step == self._previous:
            return
        if self.schedule.is_due(step, self._previous):
            self._keep(trainer, pl_module)
        self._previous = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that training ends with."""
        if self.schedule is not None:
            self._keep(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule."""
        return {"previous": self._previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken."""
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
        """Listen to the module's output."""
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
        """Write what all ranks have seen, where every batch gave one matrix of logits."""
        if self._handle is None:
            return
        self._remove_hook()
        folder = self._folder(trainer)  # Lightning broadcasts it, so all ranks ask
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
        arrays = {name: np.concatenate([part[name].numpy() for part in found]) for name in found[0]}
        if sum(array.nbytes for array in arrays.values()) <= MAX_BYTES:
            save: Any = np.savez
            _write(folder / LOGITS, lambda file: save(file, **arrays))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._remove_hook()

    def _remove_hook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    return {"logits": logits.half(), "predictions": logits.argmax(1).int(), "labels": labels.int()}


def _write(path: Path, save: Callable[[Any], Any]) -> None:
    """Write a file in one step, so that a reader sees the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            save(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def snapshot_steps(folder: Path) -> dict[int, Path]:
    """Return the files of a run's snapshots by step, ascending."""
    found = {int(path.stem.removeprefix("step-")): path for path in (folder / FOLDER).glob("step-*.pt")}
    return dict(sorted(found.items()))
