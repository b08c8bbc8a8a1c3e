"""CPU and GPU discovery, and their division among runs."""

import os
import sys
from pathlib import Path

from symbreak.sweeps.errors import UsageError

SRUN_VARIABLES = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def cores() -> int:
    """Return the number of CPU cores this process may use, from its affinity and its container's quota."""
    from joblib import cpu_count

    return cpu_count()


def visible_gpus() -> list[str]:
    """Return the names of the GPUs, as in CUDA_VISIBLE_DEVICES; imports torch, so call it in a process of its own."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(index) for index in range(count)]


def make_slots(
    workers: int | None, gpus_per_run: int | None, gpus: list[str], most: int | None
) -> list[dict[str, str]]:
    """Divide the machine among workers.

    Args:
        workers: Number of workers, None for one per GPU group or core.
        gpus_per_run: Size of a GPU group, None for 1 if there are GPUs.
        gpus: Names of the visible GPUs, as in CUDA_VISIBLE_DEVICES.
        most: Number of points, None if unbounded.

    Returns:
        Each worker's extra environment variables.

    Raises:
        UsageError: If a run needs more GPUs than there are.
    """
    size = gpus_per_run if gpus_per_run is not None else min(1, len(gpus))
    if size > len(gpus):
        raise UsageError(f"--gpus-per-run: {size} are asked for, {len(gpus)} can be seen")
    groups = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)] if size else []
    count = workers or len(groups) or cores()
    count = min(count, most or count)
    if not groups:
        return [{"CUDA_VISIBLE_DEVICES": ""} if gpus_per_run == 0 else {} for _ in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[index % len(groups)])} for index in range(count)]


def check_counts(
    workers: int | None = None, gpus_per_run: int | None = None, cpus_per_run: int | None = None, retries: int = 0
) -> None:
    """Check the numbers of workers, GPUs, CPUs and retries.

    Raises:
        UsageError: If one is out of range.
    """
    for name, value, least in (
        ("--workers", workers, 1),
        ("--gpus-per-run", gpus_per_run, 0),
        ("--cpus-per-run", cpus_per_run, 1),
        ("--retries", retries, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name}: at least {least} is needed, not {value}")


def run_environment(threads: int) -> dict[str, str]:
    """Return the environment of runs started on this machine.

    Args:
        threads: CPU threads of each run.

    Returns:
        This process's environment with this Python's folder first in PATH, and without the variables of `srun`, which
        would make Lightning wait for ranks that are never started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in SRUN_VARIABLES}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return environment | {"OMP_NUM_THREADS": str(threads)}
