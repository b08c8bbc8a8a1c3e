"""Find the operation that broke symmetry first, in a run of any length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from symbreak.callbacks.announce import announce
from symbreak.callbacks.functional import distinct_rows
from symbreak.callbacks.step_replay import StepReplay
from symbreak.callbacks.tracing.tracer import trace
from symbreak.callbacks.tracing.verdict import Trace

EXPLAINED_REPLAYS = 10
"""Number of replays explained by labels, data or initial weights after which checks end."""


@dataclass(frozen=True)
class TracedBreak:
    """A break of symmetry and its cause.

    Args:
        step: Number of updates after which filters differed; 0 if they differed at the start.
        weights: Names of the weights whose filters differed.
        trace: Trace of the replay that showed the cause, else of the last replay.
        replays: Number of replays.
        shown: Number of replays that showed an operation which reached a weight.
        exact: Whether every replay reproduced the weights of the step bit by bit, on every rank.
        rank: The rank whose trace it is: the first one on which the break arose.
    """

    step: int
    weights: tuple[str, ...]
    trace: Trace
    replays: int = 0
    shown: int = 0
    exact: bool = True
    rank: int = 0

    def __str__(self) -> str:
        where = f"{', '.join(self.weights[:3])}{', ...' if len(self.weights) > 3 else ''}"
        if self.replays == 0:
            return f"symmetry was broken from the start: initial weights differ in {where}"
        if self.shown == 0:
            return (
                f"symmetry broke at step {self.step} in {where}, but in none of {self.replays} replays of the step: "
                "by an operation that is not deterministic, or by code outside the step"
            )
        often = f", in {self.shown} of {self.replays} replays" if self.shown < self.replays else ""
        rank = f", on rank {self.rank}" if self.rank else ""
        inexact = "" if self.exact else " (the replay gave other weights than the step)"
        if self.trace.cause is None:
            return f"symmetry broke at step {self.step}: weights differed before it began, in {where}{often}{inexact}"
        return f"symmetry broke at step {self.step}: {self.trace.cause}{rank}{often}{inexact}{self.trace.note}"


class SymmetryTrace(Callback):
    """Find the operation that first made identical filters differ.

    After every step the groups of equal filters (rows) and inputs (columns) of each weight are counted exactly, with
    one transfer of the counts from the device. Each step begins with a copy of parameters, buffers, optimiser state,
    random state and batch. If a count grows, the step is rerun from the copy under
    :func:`~symbreak.callbacks.tracing.tracer.trace`, and the state of training is restored. Under deterministic
    algorithms the replay is exact and shows the operation. A replay that does not show it is repeated, and the finding
    gives the number of replays in which the operation appeared. Differences explained by labels (between classes), by
    the batch (between its input channels) or by differing initial weights are not findings. Checks end with the first
    finding.

    With DistributedDataParallel every rank replays the step, gradients are compared before and after their reduction,
    and the finding is that of the first rank on which the break arose. With other strategies of more than one process
    the callback warns and does nothing.

    The finding is announced in the progress display and by an alert of an online W&B run, and logged to every logger as
    the hyperparameter ``symmetry/cause``.

    Args:
        replays: Maximum number of replays of a step until one shows the break; 0 switches the callback off.
        traced_steps: Number of first steps that are traced even if no count grows.
        follow: Number of steps after the finding that are traced if a count grows, to show which layers it spreads to.
        stop: Whether to stop training when nothing is left to trace.

    Attributes:
        initial: The finding that filters differed at the start of training, or None.
        found: The first break during training, or None.
        traces: Each replayed step and its trace.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(self, replays: int = 3, traced_steps: int = 0, follow: int = 0, stop: bool = False) -> None:
        if min(replays, traced_steps, follow) < 0:
            raise ValueError(f"replays={replays}, traced_steps={traced_steps} and follow={follow} must be 0 or more")
        self.replays = replays
        self.traced_steps = traced_steps
        self.follow = follow
        self.stop = stop
        self._reset()

    def _reset(self) -> None:
        self.initial: TracedBreak | None = None
        self.found: TracedBreak | None = None
        self.traces: list[tuple[int, Trace]] = []
        self._step: StepReplay | None = None
        self._counts: dict[tuple[str, int], float] = {}
        self._counts_before: dict[tuple[str, int], float] = {}
        self._weights: dict[str, Tensor] = {}
        self._features: set[tuple[str, int]] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state of an earlier fit."""
        if stage == "fit":
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the groups of equal filters at the start of training."""
        if not self.replays:
            return
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            rank_zero_warn(f"SymmetryTrace is off: it traces DDP, not {type(trainer.strategy).__name__}.")
            return
        self._weights = {
            name: p
            for name, p in pl_module.named_parameters()
            if p.ndim >= 2 and p.numel() and p.is_floating_point() and p.requires_grad
        }
        self._counts = {(name, axis): 0.0 for name in self._weights for axis in (0, 1)}
        self._grown()
        differing = tuple(name for (name, axis), count in self._counts.items() if axis == 0 and count > 1)
        if differing:
            self.initial = TracedBreak(trainer.global_step, differing, Trace())
            self._tell(trainer, self.initial)
        self._step = StepReplay(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the state from which this batch's step can be rerun."""
        if self._step is not None:
            self._step.begin(batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count groups after an update, and trace the step if a count has grown."""
        if self._step is None or not self._step.is_complete():
            return
        grown = self._grown()
        if grown or self._step.step < self.traced_steps:
            finding = self._replay(trainer, pl_module, self._step, grown)
            if finding is not None and self.found is None:
                self.found = finding
                self._tell(trainer, finding)
        if self._is_done(trainer.global_step):
            self._step = None
            trainer.should_stop = trainer.should_stop or self.stop

    def _is_done(self, step: int) -> bool:
        """Return whether nothing is left to trace: all slices differ, or the finding was followed long enough."""
        if step < self.traced_steps:
            return False
        if self.found is None:
            return not self._watched() or len(self.traces) >= self.traced_steps + EXPLAINED_REPLAYS
        followed = sum(step > self.found.step for step, _ in self.traces)
        return followed >= self.follow or not self._watched()

    def _watched(self) -> list[tuple[str, int]]:
        """Return the weights and axes along which some slices are still equal."""
        return [key for key, count in self._counts.items() if count < self._weights[key[0]].shape[key[1]]]

    def _grown(self) -> tuple[str, ...]:
        """Count groups again; return the names of the weights with more groups than before."""
        self._counts_before = dict(self._counts)
        keys = self._watched()
        if not keys:
            return ()
        with torch.no_grad():
            counts = torch.stack([distinct_rows(self._weights[name].transpose(0, axis)) for name, axis in keys])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts, dist.ReduceOp.MAX)  # every rank takes the same decisions
        now = dict(zip(keys, counts.tolist(), strict=True))
        grown = [name for (name, axis), count in now.items() if count > self._counts[name, axis]]
        self._counts |= now
        return tuple(dict.fromkeys(grown))

    def _replay(
        self, trainer: Trainer, module: LightningModule, step: StepReplay, grown: tuple[str, ...]
    ) -> TracedBreak | None:
        """Trace replays of the step until one shows the cause, or all; return None if the break is not a finding."""
        traces: list[Trace] = []
        shown: list[tuple[Trace, int]] = []
        exact, explained = True, False
        agree = trainer.strategy.reduce_boolean_decision
        with step.undone() as after:
            while len(traces) < self.replays and (len(traces) != 1 or not shown):
                step.rewind()
                with trace(module, trainer.optimizers, step.batches, step.step, self._features) as traced:
                    step.run()
                self._features |= traced.features
                traces.append(traced)
                exact = agree(exact and after.is_current())
                explained = agree(set(grown) <= {change.weight for change in traced.changes})
                if agree(traced.cause is not None or self._edited(traced), all=False):
                    shown.append(_first_of_ranks(trainer, traced))
                elif explained:
                    break  # fully explained by labels, data or weights known to differ
        told, rank = shown[0] if shown else (traces[0], 0)
        self.traces.append((trainer.global_step, told))
        if not shown and explained:
            return None
        return TracedBreak(trainer.global_step, grown, told, len(traces), len(shown), exact, rank)

    def _edited(self, traced: Trace) -> bool:
        """Return whether a weight had more groups at the start of the step than at the end of the previous one."""
        return any(count > self._counts_before[name, 0] for name, count in traced.initial.items())

    def _tell(self, trainer: Trainer, finding: TracedBreak) -> None:
        announce(trainer, "Symmetry broke", str(finding))
        for logger in trainer.loggers:
            logger.log_hyperparams({"symmetry/cause": str(finding)})


def _first_of_ranks(trainer: Trainer, traced: Trace) -> tuple[Trace, int]:
    """Return the trace of the first rank with a break that did not arrive from another one, and that rank."""
    if trainer.world_size == 1:
        return traced, 0
    own = traced.cause is not None and not traced.cause.is_from_another_rank
    first = torch.tensor(trainer.global_rank if own else trainer.world_size, device=trainer.strategy.root_device)
    dist.all_reduce(first, dist.ReduceOp.MIN)
    rank = int(first) % trainer.world_size
    return trainer.strategy.broadcast(traced, rank), rank
