"""The interface between the driver of a sweep and what executes its runs."""

from __future__ import annotations

from typing import Protocol

from symbreak.sweeps.engine.job import Job

LOST = -9
"""Exit code of a run whose process, or whose machine, is gone."""


class Process(Protocol):
    """A run that was started."""

    def exit_code(self) -> int | None:
        """Return None while it runs, 0 if it went well, -n if signal n killed it, else what it returned."""
        ...

    def stop(self) -> None:
        """Ask it to end, as a cluster's scheduler would; it is killed if that takes too long."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Executor(Protocol):
    """Something that executes several runs at a time."""

    def free(self) -> int:
        """Return how many more runs can start now."""
        ...

    def start(self, job: Job) -> Process:
        """Start a run; its folder must exist."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when a run ends, or after some time."""
        ...
