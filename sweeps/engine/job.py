"""One run as a process: its description, execution and supervision."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from symbreak.sweeps.run.folder import LOCK, LOG

STOP_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Job:
    """Description of one run.

    Attributes:
        command: Words of its command, without `/usr/bin/env`.
        folder: The absolute run folder; output is appended to its log.
        variables: Environment variables in addition to those of the executing machine.
        threads: CPU threads.
        cwd: Working directory.
    """

    command: list[str]
    folder: str
    variables: dict[str, str]
    threads: int = 1
    cwd: str = field(default_factory=os.getcwd)


def execute(job: Job, environment: dict[str, str]) -> int:
    """Execute a job in this process, which must be disposable, and return its exit code.

    The process leads its own session, which is killed at once when the process that started it has ended. The folder's
    lock makes a later attempt wait until the last process of this one has ended.
    """
    os.setsid()
    log = os.open(Path(job.folder, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.chdir(job.cwd)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Path(job.folder, LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _symbreak(job) if job.command[0] == "symbreak" else _subprocess(job)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _symbreak(job: Job) -> int:
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
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        if wandb := sys.modules.get("wandb"):  # a forked process ends without W&B's own exit hook
            if wandb.run is not None:
                wandb.run.finish(code)
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
    return code


def leave(code: int) -> NoReturn:
    """End this process with the exit code of its job, or by the signal that ended the job."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def signal_group(pid: int, number: int, has_ended: bool = False) -> None:
    """Send a signal to a run and to every process that it started, even if the run has ended."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it is not a group leader yet, or has ended
        with contextlib.suppress(ProcessLookupError):
            if not has_ended:
                os.kill(pid, number)
