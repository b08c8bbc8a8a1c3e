"""Call one function on several ranks of a process group."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, backend: str = "gloo") -> list[Any]:
    """Call ``function(*arguments)`` once in each of ``world_size`` new processes, joined in a process group.

    The processes are forked from a server that has imported this project once, compute on one thread each and end with
    the call. With NCCL, rank r owns CUDA device r.

    Args:
        function: An importable function; it reads its rank from :mod:`torch.distributed`.
        world_size: Number of processes.
        *arguments: Picklable arguments of each call.
        backend: ``gloo`` or ``nccl``.

    Returns:
        The return value of each rank, in rank order.

    Raises:
        torch.multiprocessing.ProcessRaisedException: When a rank fails; the others are stopped.
    """
    multiprocessing.set_forkserver_preload(
        ["symbreak.callbacks", "symbreak.lightning_modules", "symbreak.datamodules", __name__]
    )
    with tempfile.TemporaryDirectory() as folder:
        rank_arguments = (world_size, backend, folder, function, arguments)
        start_processes(_rank, rank_arguments, world_size, start_method="forkserver")
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(world_size)]


def _rank(
    rank: int, world_size: int, backend: str, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    store = Path(folder, "store").as_uri()
    dist.init_process_group(backend, store, timedelta(minutes=2), world_size, rank)
    try:
        Path(folder, str(rank)).write_bytes(pickle.dumps(function(*arguments)))
    finally:
        dist.destroy_process_group()
