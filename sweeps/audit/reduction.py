"""All-reduce over several ranks: in real processes, and a simulation of gloo's ring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from symbreak.callbacks.plugins import ordered_mean, ordered_sum
from symbreak.sweeps.audit.cases import Case, Finding, Precision, dtype_of, judge
from symbreak.sweeps.audit.comparison import repeat
from symbreak.sweeps.audit.operations import Inputs
from symbreak.sweeps.audit.processes import run_ranks

SIMULATED = "all_reduce_simulated"
REDUCTIONS = {
    "all_reduce_default": "identical rows on a rank, others on the next: identical rows of the mean over ranks",
    "all_reduce_ordered": "the same, through ordered_all_reduce",
    SIMULATED: "the same, by gloo's ring simulated in one process, without any communication",
}
_REPETITIONS = 2
_MAX_SEGMENT_BYTES = 2**20


def chunk_length(length: int, ranks: int, itemsize: int) -> int:
    """Return the length of the chunks whose sum starts at the same rank in gloo's ring.

    A tensor is cut into segments of at most 1 MiB, at least two per rank, the same number for each.
    """
    segments = max(math.ceil(length * itemsize / _MAX_SEGMENT_BYTES), 2 * ranks)
    per_rank = math.ceil(segments / ranks)
    return per_rank * math.ceil(length / (per_rank * ranks))


def ring_all_reduce(addends: Tensor) -> Tensor:
    """Simulate gloo's ring all-reduce, bit for bit: chunk c is summed from rank c - 1 downwards, around the ring.

    Args:
        addends: One row per rank, shape ``(ranks, n)``.

    Returns:
        The sum on every rank, shape ``(n,)``.
    """
    ranks, length = addends.shape
    chunks = addends.split(chunk_length(length, ranks, addends.element_size()), dim=1)
    return torch.cat([ordered_sum(chunk.roll(-start, 0).flip(0)) for start, chunk in enumerate(chunks)])


def cases(
    operations: Sequence[str], shapes: Sequence[str], precisions: Sequence[Precision], world_sizes: Sequence[int]
) -> list[Case]:
    """Return every reduction to judge; a shape is ``channels x fan-in``."""
    return [
        Case(operation, precision, shape, world_size=world_size)
        for world_size in world_sizes
        for operation in operations
        for precision in precisions
        for shape in shapes
    ]


def reduce_and_judge(wanted: Sequence[Case], backend: str = "gloo") -> list[Finding]:
    """Judge reductions: simulated ones in this process, the others in new processes.

    One group of processes, of the largest world size, serves all world sizes.

    Args:
        wanted: Cases as :func:`cases` makes them.
        backend: ``gloo`` on CPUs, ``nccl`` on CUDA devices.
    """
    simulated = [judge(case, partial(_simulate, case)) for case in wanted if case.operation == SIMULATED]
    real = [case for case in wanted if case.operation != SIMULATED]
    if not real:
        return simulated
    return run_ranks(_judge_on_ranks, max(case.world_size for case in real), real, backend=backend)[0] + simulated


def _gradient(case: Case, rank: int, device: str = "cpu") -> Tensor:
    """Return this rank's flat gradient: identical channels, divided by the world size as DDP does."""
    channels, fan_in = map(int, case.shape.split("x"))
    inputs = Inputs((channels, fan_in, 1, 1), dtype_of(case.precision), device)
    return inputs.random(channels, fan_in, key=rank, identical=0).flatten()


def _rows(case: Case, flat: Tensor) -> Tensor:
    return flat.view(int(case.shape.split("x")[0]), -1)


def _simulate(case: Case) -> list[Tensor]:
    def build() -> Callable[[], Tensor]:
        addends = torch.stack([_gradient(case, rank) / case.world_size for rank in range(case.world_size)])
        return lambda: _rows(case, ring_all_reduce(addends))

    return repeat(build, _REPETITIONS)


def _judge_on_ranks(wanted: Sequence[Case]) -> list[Finding]:
    world_sizes = sorted({case.world_size for case in wanted})
    groups = {world_size: dist.new_group(list(range(world_size))) for world_size in world_sizes}
    mine = [(case, groups[case.world_size]) for case in wanted if dist.get_rank() < case.world_size]
    return [judge(case, partial(_reduce, case, group)) for case, group in mine if isinstance(group, dist.ProcessGroup)]


def _reduce(case: Case, group: dist.ProcessGroup) -> list[Tensor]:
    reduce = _ordered_mean if case.operation == "all_reduce_ordered" else _default_mean

    def build() -> Callable[[], Tensor]:
        own = _gradient(case, dist.get_rank(), "cuda" if dist.get_backend() == "nccl" else "cpu")
        return lambda: _rows(case, reduce(own, group))

    return repeat(build, _REPETITIONS)


def _default_mean(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    mean = tensor / dist.get_world_size(group)
    dist.all_reduce(mean, group=group)
    return mean


def _ordered_mean(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    return ordered_mean(tensor, group).wait()
