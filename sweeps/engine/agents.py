"""Sweeps on W&B's server: register one, and run one `wandb agent` per group of GPUs."""

import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from symbreak.sweeps.errors import UsageError

POLL_SECONDS = 0.5


def agents(sweep_id: str, workers: int | None = None, gpus_per_run: int | None = None, count: int | None = None) -> int:
    """Run a sweep of W&B's server with one `wandb agent` per group of GPUs.

    Any number of machines may join; the server distributes the points. Ctrl-C and SIGTERM reach every run.

    Args:
        sweep_id: The sweep, as ENTITY/PROJECT/ID or, with WANDB_ENTITY and WANDB_PROJECT set, only the ID.
        workers: Number of agents; by default one per group of GPUs, or one if there is no GPU.
        gpus_per_run: GPUs visible to each agent's runs; by default 1 if there are GPUs. 0 hides them.
        count: Maximum number of runs per agent.

    Returns:
        0 if every agent succeeded, else the first non-zero exit code.
    """
    from symbreak.sweeps.engine.local import ForkServer
    from symbreak.sweeps.engine.machine import cores, make_slots, run_environment, visible_gpus

    gpus = ForkServer(("torch",)).call(visible_gpus) if gpus_per_run != 0 else []
    slots = make_slots(workers or (None if gpus else 1), gpus_per_run, gpus, None)
    command = [sys.executable, "-m", "wandb", "agent", "--forward-signals", sweep_id]
    command[5:5] = ["--count", str(count)] if count else []
    threads = max(1, cores() // len(slots))
    environments = [run_environment(threads) | slot for slot in slots]
    return _wait([subprocess.Popen(command, env=env, start_new_session=True) for env in environments])


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(POLL_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return next((process.returncode for process in processes if process.returncode), 0)


def register(content: dict[str, Any], name: str) -> str:
    """Register a sweep at W&B.

    Args:
        content: Content of the sweep file.
        name: The sweep's name where the file has none.

    Returns:
        The sweep as ENTITY/PROJECT/ID.

    Raises:
        UsageError: If W&B cannot be reached or refuses.
    """
    import wandb

    try:
        sweep_id = wandb.sweep({"name": name, **content}, entity=content.get("entity"), project=content.get("project"))
    except Exception as error:  # W&B's own errors share no base class with its transport's
        raise UsageError(f"--online: W&B did not take the sweep: {' '.join(str(error).split())}") from None
    parts = (os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT"), sweep_id)
    return "/".join(part for part in parts if part)
