"""Runs as processes of their own, forked from a server that has the heavy modules imported already."""

import contextlib
import importlib.util
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from symbreak.sweeps.errors import UsageError

PRELOAD = ("torch", "pytorch_lightning", "symbreak.sweeps.run.command")
STOP_SECONDS = 20.0
"""How long a run may take to end after it was asked to, before it is killed."""


@dataclass(frozen=True)
class Job:
    """What one run needs.

    Attributes:
        command: Its words, without `/usr/bin/env`.
        folder: The run folder; output goes to its log.txt.
        environment: The whole environment of the run.
        threads: The CPU threads that the run may use.
        cwd: Its working directory.
    """

    command: list[str]
    folder: Path
    environment: dict[str, str]
    threads: int
    cwd: Path = field(default_factory=Path.cwd)


@dataclass
class Run:
    """A started run.

    Attributes:
        process: The process that the fork server made; it leads a process group of its own.
        job: What it runs.
        stopped_at: When it was asked to stop, on the monotonic clock.
    """

    process: BaseProcess
    job: Job
    stopped_at: float | None = None

    def exit_code(self) -> int | None:
        """Return None while it runs, 0 if it went well, -n if signal n killed it, else what it returned."""
        if self.stopped_at is not None and time.monotonic() - self.stopped_at > STOP_SECONDS:
            self.signal(signal.SIGKILL)
        code = self.process.exitcode
        if code is not None:
            self.signal(signal.SIGKILL)  # what it may have left behind in its group
        return code

    def stop(self) -> None:
        """Ask the run to end, as a cluster's scheduler would; it is killed if that takes too long."""
        self.stopped_at = time.monotonic()
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal to the run and to every process it started."""
        pid = self.process.pid
        if pid is None:
            return
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it leads no group yet, or no longer
            with contextlib.suppress(ProcessLookupError):
                if self.process.exitcode is None:
                    os.kill(pid, number)


class ForkServer:
    """Starts processes by forking a server that imported the heavy modules once, without a CUDA context.

    Args:
        preload: The modules to import in the server.
        threads: OMP_NUM_THREADS of the server, which OpenMP reads while it is being imported.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD, threads: int = 1) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(preload))
        with _environment(OMP_NUM_THREADS=str(threads)):
            multiprocessing.forkserver.ensure_running()

    def start(self, job: Job) -> Run:
        """Start a run; its folder must be there."""
        process = self.context.Process(target=_run, args=(job,), name=job.folder.name)
        process.start()
        return Run(process, job)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a module-level function returns in a process of its own, or raise what it raises."""
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


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        sender.send((True, function(*arguments)))
    except Exception as error:
        sender.send((False, error if isinstance(error, UsageError) else RuntimeError(repr(error))))


def _run(job: Job) -> None:
    os.setsid()
    log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.chdir(job.cwd)
    os.environ.clear()
    os.environ.update(job.environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    is_ours = job.command[0] == "symbreak"
    sys.exit(_in_this_process(job) if is_ours else _subprocess(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.killpg(0, signal.SIGKILL)  # at once: the next caller may start this point afresh, in the same folder


def _in_this_process(job: Job) -> int:
    import torch

    from symbreak.sweeps import cli

    torch.set_num_threads(job.threads)
    sys.argv = [shutil.which("symbreak") or "symbreak", *job.command[1:]]
    # Lightning starts further ranks by `python -m` and the name of the main module, followed by these arguments.
    main = ModuleType("__main__")
    main.__spec__ = importlib.util.find_spec("symbreak.sweeps.__main__")
    sys.modules["__main__"] = main
    code: Any = 1
    try:
        code = cli.main(job.command[1:])
    except SystemExit as error:
        code = error.code
        raise
    finally:
        if wandb := sys.modules.get("wandb"):  # a forked process ends without W&B's own exit hook
            wandb.teardown(code)
    return code


def _subprocess(job: Job) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):  # the command gets them too, and may need time to end
        signal.signal(number, lambda *_: None)
    try:
        code = subprocess.run(job.command, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        print(f"{job.command[0]}: {error.strerror}", flush=True)
        return 127
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
