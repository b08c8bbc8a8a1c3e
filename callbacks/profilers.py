"""Listening to what Lightning announces to its profiler, in the profiler's place."""

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


def remove_listener(trainer: Any, listener: Listener) -> None:
    """Take a listener out of the trainer's chain of profilers, wherever in it; do nothing if it is not there."""
    if trainer.profiler is listener:
        trainer.profiler = listener.inner
    outer = trainer.profiler
    while isinstance(outer, Listener):
        if outer.inner is listener:
            outer.inner = listener.inner
        outer = outer.inner
