"""Profilers that wrap the trainer's profiler: they act on Lightning's calls and forward them."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

from pytorch_lightning.profilers import PassThroughProfiler, Profiler

SHARES = ("data", "forward", "backward", "optimizer", "callbacks", "logging", "other")


class Listener(Profiler):
    """Forward every call to another profiler; a subclass acts on some of them.

    Args:
        inner: The wrapped profiler.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__(inner.dirpath, inner.filename)
        self.inner = inner

    def start(self, action_name: str) -> None:
        """Forward the action."""
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """Forward the action."""
        self.inner.stop(action_name)

    def describe(self) -> None:
        """Forward the action."""
        self.inner.describe()

    def teardown(self, stage: str | None) -> None:
        """Forward the action."""
        self.inner.teardown(stage)


class FetchListener(Listener):
    """Call a function before each training batch is fetched.

    Lightning offers no other hook between two training steps: the previous step is complete, including validation,
    schedulers and logging, and the next has not begun.

    Args:
        inner: The wrapped profiler, in which the call appears as a callback's.
        before_fetch: Function to call.
    """

    FETCH = "[_TrainingEpochLoop].train_dataloader_next"
    CALL = "[Callback]ExactResume.before_fetch"

    def __init__(self, inner: Profiler, before_fetch: Callable[[], None]) -> None:
        super().__init__(inner)
        self.before_fetch = before_fetch

    def start(self, action_name: str) -> None:
        """Call the function if a training batch is about to be fetched, then forward the action."""
        if action_name == self.FETCH:
            with self.inner.profile(self.CALL):
                self.before_fetch()
        self.inner.start(action_name)

    def profile(self, action_name: str) -> Any:
        """Forward the action: Lightning reports fetches by `start` only."""
        return self.inner.profile(action_name)


def remove_listener(trainer: Any, listener: Listener) -> None:
    """Remove a listener from any position in the trainer's chain of profilers; do nothing if it is absent."""
    if trainer.profiler is listener:
        trainer.profiler = listener.inner
    outer = trainer.profiler
    while isinstance(outer, Listener):
        if outer.inner is listener:
            outer.inner = listener.inner
        outer = outer.inner


@cache
def share_of(action: str) -> str | None:
    """Return the entry of `SHARES` for a profiler action, or None to inherit the enclosing action's share."""
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
    """Sum the time of each share; time counts for the innermost action that has a share.

    Between the last hook of a batch and the next fetch, Lightning passes metrics to the loggers; that time counts as
    logging. Paused time is not counted.

    Args:
        inner: The wrapped profiler, to which all actions are forwarded.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__(inner)
        self.passes_on = not isinstance(inner, PassThroughProfiler)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.paused = False
        self._stack = ["other"]
        self._last = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Count time for this action from now on."""
        self._count()
        self._stack.append(share_of(action_name) or self._stack[-1])
        if self.passes_on:
            self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """Count time for the enclosing action from now on."""
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
        """Pause or resume counting."""
        self._count()
        self.paused = paused

    def _count(self) -> None:
        now = time.perf_counter()
        if not self.paused:
            self.seconds[self._stack[-1]] += now - self._last
        self._last = now
