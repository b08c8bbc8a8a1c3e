"""Runs on the machines of a Ray cluster, which schedules them by the CPUs and GPUs that they need."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from symbreak.sweeps.engine.executor import LOST
from symbreak.sweeps.engine.job import STOP_SECONDS, Job
from symbreak.sweeps.engine.local import PRELOAD, ForkServer
from symbreak.sweeps.engine.machine import run_environment
from symbreak.sweeps.errors import UsageError

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskCancelledError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise UsageError("--executor ray needs Ray: pip install 'symbreak[ray]'") from error

STORAGE_SECONDS = 60.0
"""Seconds in which every machine must report whether it can access the run folders."""


class RayProcess:
    """A run as a Ray task."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self._kill_at: float | None = None

    def exit_code(self) -> int | None:
        """Return None while it runs or waits for resources, else its exit code, `LOST` if its machine is lost."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self.kill()
        ready, _ = ray.wait([self.task], timeout=0)
        if not ready:
            return None
        try:
            return ray.get(self.task)
        except TaskCancelledError:
            return -signal.SIGTERM
        except RayTaskError as error:
            return -signal.SIGTERM if isinstance(error.cause, KeyboardInterrupt) else 1
        except RayError:  # the worker, its machine or its storage is lost
            return LOST

    def stop(self) -> None:
        """Ask it to end; kill it if that takes too long."""
        self._kill_at = time.monotonic() + STOP_SECONDS + 5
        ray.cancel(self.task, force=False)

    def kill(self) -> None:
        """Kill its worker, and thereby the run."""
        ray.cancel(self.task, force=True)


class RayExecutor:
    """Executor on a Ray cluster.

    Args:
        address: Address of a running cluster, or `auto`; None starts one on this machine.
        workers: Maximum number of runs at a time, None for as many as the cluster's resources allow.
        gpus_per_run: GPUs of each run; None for 1 if the cluster has any.
        cpus_per_run: CPUs of each run.
        folder: The sweep's folder, which every machine must be able to access.

    Raises:
        UsageError: If the cluster cannot be reached, has too little for one run, or does not see the folder.
    """

    def __init__(
        self, address: str | None, workers: int | None, gpus_per_run: int | None, cpus_per_run: int, folder: Path
    ) -> None:
        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise UsageError(f"--ray-address {address}: no cluster can be reached: {reason}") from error
        self.workers, self.threads = workers, cpus_per_run
        self.gpus = int(ray.cluster_resources().get("GPU", 0) > 0) if gpus_per_run is None else gpus_per_run
        if not self._capacity():
            have = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
            need = f"{self.threads} CPUs and {self.gpus} GPUs"
            raise UsageError(f"a run needs {need}; the cluster has {have['CPU']:g} and {have['GPU']:g}")
        _check_storage(folder.resolve())
        # The driver, not Ray, restarts a task that was lost with its machine: the run resumes from a checkpoint.
        self._remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_run)
        self._running: list[RayProcess] = []

    def free(self) -> int:
        """Return the number of runs that can start now, on the machines that are in the cluster now."""
        self._running = [run for run in self._running if run.exit_code() is None]
        return self._capacity() - len(self._running)

    def start(self, job: Job) -> RayProcess:
        """Submit a run."""
        self._running.append(RayProcess(self._remote.remote(job)))
        return self._running[-1]

    def wait(self, seconds: float) -> None:
        """Wait until a run ends or ``seconds`` have passed."""
        if self._running:
            ray.wait([run.task for run in self._running], timeout=seconds)
        else:
            time.sleep(seconds)

    def _capacity(self) -> int:
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self.threads)
        if self.gpus:
            room = min(room, int(resources.get("GPU", 0) // self.gpus))
        return room if self.workers is None else min(room, self.workers)


@cache
def _server(preload: Sequence[str]) -> ForkServer:
    """Return the fork server of this Ray worker; a child imports the worker's main module, which needs Ray."""
    return ForkServer((*preload, "ray"))


def _run(job: Job) -> int:
    """Execute a job in a process that ends with this Ray worker; on KeyboardInterrupt it receives SIGTERM.

    Returns:
        Its exit code, -n where signal n killed it.
    """
    server = _server(PRELOAD if job.command[0] == "symbreak" else ())
    run = server.start(job, run_environment(job.threads) | job.variables)
    try:
        run.process.join()
    except KeyboardInterrupt:
        run.stop()
        run.process.join(STOP_SECONDS)
        raise
    finally:
        run.kill()
    code = run.exit_code()
    assert code is not None
    return code


def _check_storage(folder: Path) -> None:
    """Check that every machine of the cluster can read a file which this one writes into the folder.

    Raises:
        UsageError: Naming the machines that do not.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    look = ray.remote(num_cpus=0)(_sees)
    machines = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    try:
        there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in machines]
        answers = [look.options(scheduling_strategy=strategy).remote(str(probe)) for strategy in there]
        blind = [host for host, answer in zip(machines.values(), answers, strict=True) if _is_blind(answer)]
    except GetTimeoutError as error:
        raise UsageError(f"a machine of the cluster does not answer: {str(error).splitlines()[0]}") from error
    finally:
        probe.unlink()
    if blind:
        raise UsageError(f"{', '.join(blind)} cannot see {folder}; give an --output on shared storage")


def _is_blind(answer: Any) -> bool:
    """Return whether a machine answered that it does not see the file; one that left meanwhile does not matter."""
    try:
        return not ray.get(answer, timeout=STORAGE_SECONDS)
    except GetTimeoutError:
        raise
    except RayError:
        return False


def _sees(path: str) -> bool:
    return Path(path).exists()
