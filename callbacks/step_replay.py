"""Rerun the last training step of Lightning's loop without side effects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from symbreak.callbacks.resume_state import metric_states, random_state, set_metric_states, set_random_state
from symbreak.callbacks.tracing.snapshot import Snapshot

WITHIN_A_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
"""Callback hooks that a replay runs; the state of callbacks that define one is saved and restored."""


class StepReplay:
    """Keep the batches of a training step and the state at its start, and rerun the step.

    A step lasts from the first micro-batch to the optimiser's update; under manual optimisation it is one batch. A
    replay restores parameters, buffers, optimisers, torchmetrics, the random state of PyTorch, numpy and Python, and
    callbacks that act within the step. Any other state is not restored.

    Args:
        trainer: Trainer whose optimisers are set up.
        module: The module in training.

    Attributes:
        step: Number of updates before the step.
        batches: Copies of the batches for one run, which may modify them, and their indices.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module = trainer, module
        self._automatic = module.automatic_optimization
        self._snapshot = Snapshot(module, trainer.optimizers, with_gradients=not self._automatic)
        self._within = [each for each in trainer.callbacks if _acts_within(each)]  # pyright: ignore
        self._batches: list[tuple[Any, int]] = []
        self.batches: list[tuple[Any, int]] = []
        self.step = -1
        self._start: dict[str, Any] = {}

    def begin(self, batch: Any, batch_idx: int) -> None:
        """Record a batch; copy the state if it is the first of its step."""
        if self.step != self._trainer.global_step or not self._automatic:
            self.step = self._trainer.global_step
            self._batches.clear()
            self._snapshot.take()
            self._start = self._surroundings()
        self._batches.append((apply_to_collection(batch, Tensor, torch.clone), batch_idx))

    def is_complete(self) -> bool:
        """Return whether the optimiser has made its update."""
        return not self._automatic or self._trainer.global_step != self.step

    @contextmanager
    def undone(self) -> Iterator[Snapshot]:
        """Yield a copy of the current state, and restore that state at the end of the ``with`` block."""
        loop: Any = self._trainer.fit_loop.epoch_loop
        after = Snapshot(self._module, self._trainer.optimizers, with_gradients=True)
        after.take()
        surroundings, metrics, results = self._surroundings(), metric_states(self._module), loop._results
        schedulers = [(each.scheduler, each.scheduler.state_dict()) for each in self._trainer.lr_scheduler_configs]
        loop._results = type(results)(training=True)
        try:
            yield after
        finally:
            self.batches = []
            after.restore()
            self._surround(surroundings)
            set_metric_states(self._module, metrics)
            loop._results = results
            for each, state in schedulers:
                each.load_state_dict(state)

    def rewind(self) -> None:
        """Set the state to the start of the step; call it within `undone`."""
        self._snapshot.restore()
        self._surround(self._start)
        self.batches = apply_to_collection(self._batches, Tensor, torch.clone)

    def run(self) -> None:
        """Run the step from its start."""
        loop: Any = self._trainer.fit_loop.epoch_loop
        for index, (batch, batch_idx) in enumerate(self.batches):
            kwargs = loop._build_kwargs(OrderedDict(), batch, batch_idx)
            if not self._automatic:
                loop.manual_optimization.run(kwargs)
            elif index < len(self.batches) - 1:
                self._accumulate(loop.automatic_optimization, kwargs, batch_idx)
            else:
                loop.automatic_optimization.run(self._trainer.optimizers[0], batch_idx, kwargs)

    def _accumulate(self, loop: Any, kwargs: OrderedDict[str, Any], batch_idx: int) -> None:
        strategy = self._trainer.strategy
        closure = loop._make_closure(kwargs, self._trainer.optimizers[0], batch_idx)
        if isinstance(strategy, ParallelStrategy):
            with strategy.block_backward_sync():
                closure()
        else:
            closure()
        closure.consume_result()

    def _surroundings(self) -> dict[str, Any]:
        return {
            "random": random_state(self._trainer.strategy.root_device),
            "precision": self._trainer.precision_plugin.state_dict(),
            "progress": [each.state_dict() for each in self._progress()],
            "callbacks": [each.state_dict() for each in self._within],
        }

    def _surround(self, state: dict[str, Any]) -> None:
        set_random_state(state["random"], self._trainer.strategy.root_device)
        self._trainer.precision_plugin.load_state_dict(state["precision"])
        for progress, values in zip(self._progress(), state["progress"], strict=True):
            progress.load_state_dict(values)
        for callback, values in zip(self._within, state["callbacks"], strict=True):
            callback.load_state_dict(values)

    def _progress(self) -> tuple[Any, Any]:
        """Return the update counters from which Lightning derives the global step."""
        loop: Any = self._trainer.fit_loop.epoch_loop
        return loop.automatic_optimization.optim_progress, loop.manual_optimization.optim_step_progress


def _acts_within(callback: Callback) -> bool:
    return any(getattr(type(callback), name) is not getattr(Callback, name) for name in WITHIN_A_STEP)
