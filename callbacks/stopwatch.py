"""Where the time of a training step goes, as Lightning announces it."""

import time
from collections import defaultdict
from functools import cache

from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from symbreak.callbacks.profilers import Listener

SHARES = ("data", "forward", "backward", "optimizer", "callbacks", "logging", "other")


@cache
def share_of(action: str) -> str | None:
    """Which of `SHARES` an action of Lightning's profiler belongs to; None for that of the action around it."""
    if action.startswith("[Callback]"):
        return "callbacks"
    if action.endswith((".train_dataloader_next", "_batch_transfer", ".batch_to_device", ".transfer_batch_to_device")):
        return "data"
    if action.startswith("[Strategy]") and action.endswith(".training_step"):
        return "forward"
    if action.startswith("[Strategy]") and action.endswith(".backward"):
        return "backward"
    if action.endswith((".optimizer_step", ".optimizer_zero_grad")):
        return "optimizer"
    return "logging" if action.startswith("[LightningModule]") and action.endswith(".on_train_batch_end") else None


class Stopwatch(Listener):
    """Adds up where the time goes: each moment belongs to the innermost action that has a share.

    After the last hook of a batch until the next one is fetched, Lightning hands metrics to the loggers; that time
    counts as logging. Nothing is counted while it is paused.

    Args:
        inner: The profiler whose place it takes, to which all actions are passed on.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__(inner)
        self.passes_on = not isinstance(inner, PassThroughProfiler)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.paused = False
        self._stack = ["other"]
        self._last = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Count from now on for this action."""
        self._count()
        self._stack.append(share_of(action_name) or self._stack[-1])
        if self.passes_on:
            self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """Count from now on for the action around this one."""
        if self.passes_on:
            self.inner.stop(action_name)
        self._count()
        self._stack.pop()
        if action_name.endswith(".on_train_batch_end") and action_name.startswith("[LightningModule]"):
            self._stack[-1] = "logging"
        elif action_name.endswith(".train_dataloader_next"):
            self._stack[-1] = "other"

    def take(self) -> dict[str, float]:
        """Return the seconds of each share since the last call."""
        self._count()
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds

    def pause(self, paused: bool) -> None:
        """Stop counting, or go on."""
        self._count()
        self.paused = paused

    def _count(self) -> None:
        now = time.perf_counter()
        if not self.paused:
            self.seconds[self._stack[-1]] += now - self._last
        self._last = now
