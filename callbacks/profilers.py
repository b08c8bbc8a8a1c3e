"""Listening to what Lightning announces to its profiler, in the profiler's place."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning.profilers import Profiler


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
