"""ExactResume: continue from a checkpoint bit for bit like an uninterrupted run."""

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import CombinedLoader, rank_zero_warn

from symbreak.callbacks.plugins import AtomicCheckpointIO, FetchListener, remove_listener
from symbreak.callbacks.resume_state import metric_states, random_state, set_metric_states, set_random_state

KEY = "exact_resume"
FILE_NAME = "resume.ckpt"
PREEMPTED = 128 + signal.SIGTERM


class ExactResume(Callback):
    """Make `Trainer.fit(ckpt_path=...)` continue bit for bit, even in the middle of an epoch.

    Every checkpoint stores, for each rank, the random state (Python, numpy, torch, the rank's GPU) and the running
    values of the model's torchmetrics. The position in the data is restored if the train dataloader has `state_dict`
    and `load_state_dict`. The callback's own checkpoint, `resume.ckpt`, is saved between two optimiser steps. A
    checkpoint that another callback saves within a step repeats or omits the rest of that step.

    On SIGTERM the current step and validation are finished, `resume.ckpt` is saved, a W&B run is marked as preempting,
    and the process exits with 143 (the other ranks with 0, so that no launcher kills rank 0 first).

    A run that ended at `max_steps`, even in the middle of an epoch, can be extended like an uninterrupted run.

    Checkpoints are written atomically and read without unpickling objects.

    Not restored: means that Lightning accumulates over an epoch (`self.log(..., on_epoch=True)` in `training_step`),
    and attributes that a LightningModule does not save. With three or more ranks, the default all-reduce sums in
    another order after a resume, because DistributedDataParallel rebuilds its buckets; `OrderedDDPStrategy` does not.

    Args:
        dirpath: Folder of `resume.ckpt`; by default `checkpoints` in the trainer's log folder.
        every_n_steps: Optimiser steps between two saves; 0 saves on SIGTERM only.

    Raises:
        ValueError: If `every_n_steps` is negative.
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be 0 (on SIGTERM alone) or more, got {every_n_steps}")
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self._loaded: dict[str, Any] | None = None
        self._listener: FetchListener | None = None
        self._previous_handler: Any = None
        self._hosts: Any = None
        self._terminated = False
        self._between_steps = False
        self._last_step = -1
        self._saved_step = 0

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Install the atomic checkpoint plugin, unless one is configured, and a profiler that reports batch fetches."""
        self._hosts = None
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            self._listener = FetchListener(trainer.profiler, lambda: self._before_fetch(trainer, pl_module))
            trainer.profiler = self._listener
            self._last_step, self._saved_step = -1, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM; warn if the train dataloader cannot resume in the middle of an epoch."""
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        if not all(hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict") for loader in loaders):
            rank_zero_warn(
                "ExactResume cannot restore the position in the data: the train dataloader has no state_dict and "
                "load_state_dict. The dataloaders of datamodules and torchdata's StatefulDataLoader have them."
            )
        if trainer.world_size > 1:  # ranks agree through gloo, without a device synchronisation
            self._hosts = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._terminated = False
            # Lightning's handler broadcasts inside the signal handler, possibly during another collective.
            self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, signum: int, frame: Any) -> None:
        self._terminated = True

    def _before_fetch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore a loaded state; save if due, unless gradients are being accumulated."""
        step = trainer.global_step
        if self._loaded is not None:
            self._restore(trainer, pl_module, self._loaded)
            self._loaded, self._last_step, self._saved_step = None, -1, step
        stepped, self._last_step = step != self._last_step, step
        if not stepped:
            return
        terminated = self._on_any_rank(self._terminated)
        due = self.every_n_steps and step // self.every_n_steps != self._saved_step // self.every_n_steps
        if due or terminated:
            self._save(trainer)
        if terminated:
            self._exit(trainer)

    def _on_any_rank(self, decision: bool) -> bool:
        if self._hosts is None:
            return decision
        count = torch.tensor(int(decision))
        torch.distributed.all_reduce(count, group=self._hosts)
        return bool(count)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        folder = self.dirpath or Path(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        self._between_steps = True
        trainer.save_checkpoint(Path(folder, FILE_NAME), weights_only=False)
        self._between_steps = False

    def _exit(self, trainer: Trainer) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            mark_preempting = getattr(getattr(logger, "experiment", None), "mark_preempting", None)
            if mark_preempting is not None:
                mark_preempting()
        self._terminated = False
        raise SystemExit(PREEMPTED if trainer.is_global_zero else 0)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of every rank; called on all ranks."""
        state = {"random": random_state(trainer.strategy.root_device), "metrics": metric_states(pl_module)}
        ranks = [state] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, state)
        checkpoint[KEY] = {"ranks": ranks}
        if self._between_steps:
            finish_on_resume(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep this rank's state until the first batch is fetched.

        Raises:
            ValueError: If the checkpoint was saved without this callback, or with another number of processes.
        """
        if trainer.state.fn != "fit":
            return
        if KEY not in checkpoint:
            raise ValueError("the checkpoint was saved without ExactResume: resume from it without this callback")
        ranks = checkpoint[KEY]["ranks"]
        if len(ranks) != trainer.world_size:
            raise ValueError(
                f"the checkpoint was saved by {len(ranks)} process(es) and cannot be resumed exactly by "
                f"{trainer.world_size}"
            )
        self._loaded = ranks[trainer.global_rank]
        mend_epoch_end(checkpoint["loops"]["fit_loop"], trainer.max_steps != -1)

    def _restore(self, trainer: Trainer, pl_module: LightningModule, state: dict[str, Any]) -> None:
        set_metric_states(pl_module, state["metrics"])
        set_random_state(state["random"], trainer.strategy.root_device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the SIGTERM handler, before Lightning restores its own."""
        self._restore_handler()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the profiler and destroy the process group; re-raise a signal received after the last step."""
        if self._hosts is not None:
            torch.distributed.destroy_process_group(self._hosts)
            self._hosts = None
        self._stop_listening(trainer)
        if self._terminated:
            self._terminated = False
            signal.raise_signal(signal.SIGTERM)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the profiler and the SIGTERM handler."""
        self._restore_handler()
        self._stop_listening(trainer)

    def _restore_handler(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None

    def _stop_listening(self, trainer: Any) -> None:
        if self._listener is not None:
            remove_listener(trainer, self._listener)
            self._listener = None


def finish_on_resume(fit_loop: dict[str, Any]) -> None:
    """Rewrite a loop state saved between two steps as if it had been saved at the end of the earlier step.

    From a state saved at the end of a step, Lightning counts that step and continues with the next batch. From counters
    that are already complete, it would repeat the code that follows a validation or an epoch.
    """
    progress = fit_loop["epoch_loop.batch_progress"]
    progress["current"]["completed"] -= 1
    progress["total"]["completed"] -= 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def mend_epoch_end(fit_loop: dict[str, Any], by_steps: bool) -> None:
    """Rewrite a loop state saved at the end of an epoch, from which Lightning would skip batches.

    Lightning counts an epoch that was stopped early as complete; the rewritten state continues in its middle. In a run
    with `max_steps` (`by_steps`) Lightning counts a whole epoch twice; the rewritten state begins the next epoch.
    """
    progress, epoch = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    if epoch["current"]["processed"] < epoch["current"]["started"] or not progress["current"]["ready"]:
        return
    is_whole = progress["is_last_batch"]
    if is_whole and not by_steps:
        return
    for counts in (epoch["current"], epoch["total"]):
        done = counts["started"] if is_whole else counts["started"] - 1
        counts |= {"ready": done + 1, "processed": done, "completed": done}
    if is_whole:
        progress["current"] = dict.fromkeys(progress["current"], 0)
        progress["is_last_batch"] = False
        fit_loop["state_dict"].pop("combined_loader", None)
    finish_on_resume(fit_loop)
