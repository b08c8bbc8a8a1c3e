"""Profilers that receive what Lightning reports, act on it and pass it on to the trainer's own profiler."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

from pytorch_lightning.profilers import PassThroughProfiler, Profiler

SHARES = ("data", "forward", "backward", "optimizer", "callbacks", "logging", "other")


class Listener(Profiler):
    """Passes everything on to another profiler; a subclass listens to some of it.

    Args:
        inner: The profiler whose place it takes.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__(inner.dirpath, inner.filename)
        self.inner = inner

    def start(self, action_name: str) -> None:
        """Pass on."""
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """Pass on."""
        self.inner.stop(action_name)

    def describe(self) -> None:
        """Pass on."""
        self.inner.describe()

    def teardown(self, stage: str | None) -> None:
        """Pass on."""
        self.inner.teardown(stage)


class FetchListener(Listener):
    """Calls a function before each training batch is fetched.

    This is the only moment between two training steps that Lightning announces: everything of the last step is done,
    validation, schedulers and logging included, and nothing of the next has begun.

    Args:
        inner: The trainer's own profiler, to which the call is announced as a callback's.
        before_fetch: What is called.
    """

    FETCH = "[_TrainingEpochLoop].train_dataloader_next"
    CALL = "[Callback]ExactResume.before_fetch"

    def __init__(self, inner: Profiler, before_fetch: Callable[[], None]) -> None:
        super().__init__(inner)
        self.before_fetch = before_fetch

    def start(self, action_name: str) -> None:
        """Pass on, after the call where a training batch is about to be fetched."""
        if action_name == self.FETCH:
            with self.inner.profile(self.CALL):
                self.before_fetch()
        self.inner.start(action_name)

    def profile(self, action_name: str) -> Any:
        """Pass on: fetching is announced by `start`, never by this."""
        return self.inner.profile(action_name)


def remove_listener(trainer: Any, listener: Listener) -> None:
    """Take a listener out of the trainer's chain of profilers, wherever in it; do nothing if it is not there."""
    if trainer.profiler is listener:
        trainer.profiler = listener.inner
    outer = trainer.profiler
    while isinstance(outer, Listener):
        if outer.inner is listener:
            outer.inner = listener.inner
        outer = outer.inner


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
