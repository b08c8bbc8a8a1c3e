"""Interface between a sweep's driver and the executor of its runs."""

from __future__ import annotations

from typing import Protocol

from symbreak.sweeps.engine.job import Job

LOST = -9
"""Exit code of a run whose process or machine is lost."""


class Process(Protocol):
    """A run that was started."""

    def exit_code(self) -> int | None:
        """Return None while it runs, 0 on success, -n if signal n killed it, else its exit code."""
        ...

    def stop(self) -> None:
        """Ask it to end, as a cluster's scheduler does; kill it if that takes too long."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Executor(Protocol):
    """Executor of concurrent runs, each with the same number of CPU threads."""

    threads: int

    def free(self) -> int:
        """Return the number of runs that can start now."""
        ...

    def start(self, job: Job) -> Process:
        """Start a run; its folder must exist."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until a run ends or ``seconds`` have passed."""
        ...
