"""Runs on this machine, forked from a server that has imported the heavy modules already."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

from symbreak.sweeps.engine.executor import LOST
from symbreak.sweeps.engine.job import STOP_SECONDS, Job, execute, leave, signal_group
from symbreak.sweeps.engine.machine import cores, make_slots, run_environment, visible_gpus
from symbreak.sweeps.errors import UsageError

PRELOAD = (
    "torch",
    "pytorch_lightning",
    "symbreak.sweeps.run.command",
    "symbreak.datamodules",
    "symbreak.lightning_modules",
)
SERVER_GONE = 255
"""Exit code that multiprocessing reports for every child of a killed fork server; a command may return it too."""


class LocalProcess:
    """A run in a process forked by the server, which leads its own session."""

    def __init__(self, process: BaseProcess, receiver: Connection, slot: int) -> None:
        self.process, self.slot = process, slot
        self._receiver = receiver
        self._killed_at: float | None = None

    def exit_code(self) -> int | None:
        """Return None while it runs, 0 on success, -n if signal n killed it, else its exit code."""
        if self._killed_at is not None and time.monotonic() > self._killed_at:
            self.kill()
        code = self.process.exitcode
        if code is None:
            return None
        self.kill()  # processes that remain in its session
        return LOST if code == SERVER_GONE and not self._receiver.poll() else code

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if that takes too long."""
        self._killed_at = time.monotonic() + STOP_SECONDS
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process.pid is not None:
            signal_group(self.process.pid, number, has_ended=self.process.exitcode is not None)


class ForkServer:
    """Server that imports the heavy modules once, without a CUDA context, and forks processes.

    Args:
        preload: The modules to import in the server.
        threads: OMP_NUM_THREADS of the server, which OpenMP reads while it is being imported.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD, threads: int = 1) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(preload))
        with patch.dict(os.environ, OMP_NUM_THREADS=str(threads)):
            multiprocessing.forkserver.ensure_running()

    def start(self, job: Job, environment: dict[str, str], slot: int = 0) -> LocalProcess:
        """Start a job; its folder must exist."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_execute, args=(job, environment, sender))
        process.start()
        sender.close()
        return LocalProcess(process, receiver, slot)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a module-level function in a new process; return its result or raise its error."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_call, args=(sender, function, arguments))
        process.start()
        sender.close()
        try:
            is_good, result = receiver.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
        process.join()
        if is_good:
            return result
        raise result


class LocalExecutor:
    """Executor on this machine, with one run per group of GPUs or share of the cores.

    Args:
        server: Forks the runs.
        workers: Number of concurrent runs; None for one per group of GPUs, or per core without a GPU.
        gpus_per_run: GPUs of each run; None for 1 if there are GPUs.
        cpus_per_run: CPU threads of each run; None for an equal share of the cores.
        points: Number of points, None if unbounded.
    """

    def __init__(
        self,
        server: ForkServer,
        workers: int | None,
        gpus_per_run: int | None,
        cpus_per_run: int | None,
        points: int | None,
    ) -> None:
        gpus = server.call(visible_gpus) if gpus_per_run != 0 else []
        self.server, self.slots = server, make_slots(workers, gpus_per_run, gpus, points)
        self.threads = cpus_per_run or max(1, cores() // len(self.slots))
        self._running: list[LocalProcess] = []

    def free(self) -> int:
        """Return the number of slots without a run."""
        self._running = [run for run in self._running if run.process.is_alive()]
        return len(self.slots) - len(self._running)

    def start(self, job: Job) -> LocalProcess:
        """Start a run in a free slot."""
        slot = next(slot for slot in range(len(self.slots)) if slot not in {run.slot for run in self._running})
        environment = run_environment(self.threads) | self.slots[slot] | job.variables
        self._running.append(self.server.start(job, environment, slot))
        return self._running[-1]

    def wait(self, seconds: float) -> None:
        """Wait until a run ends or ``seconds`` have passed."""
        multiprocessing.connection.wait([run.process.sentinel for run in self._running], timeout=seconds)


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        sender.send((True, function(*arguments)))
    except Exception as error:
        sender.send((False, error if isinstance(error, UsageError) else RuntimeError(repr(error))))


def _execute(job: Job, environment: dict[str, str], sender: Connection) -> None:
    code = execute(job, environment)
    sender.send(code)
    leave(code)
