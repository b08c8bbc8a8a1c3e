"""What summing in rank order costs against the default reduction: gloo, or NCCL where there are enough GPUs."""

import statistics
import time

import pytest
import torch
import torch.distributed as dist

from symbreak.callbacks.plugins import ordered_mean
from symbreak.sweeps.audit.processes import run_ranks

MIB = 2**20
BUCKET_MIB = 25
"""DDP's default size of a bucket."""


def default_mean(tensor):
    """What DDP does without a hook."""
    mean = tensor / dist.get_world_size()
    dist.all_reduce(mean)
    return mean


def in_order(tensor):
    return ordered_mean(tensor).wait()


def measure(repeats):
    """Median seconds of the default and the ordered reduction, which take turns; all ranks start together."""
    tensor = torch.randn(BUCKET_MIB * MIB // 4, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    seconds = {default_mean: [], in_order: []}
    for _ in range(repeats):
        for reduce, values in seconds.items():
            dist.barrier()
            begun = time.perf_counter()
            reduce(tensor)
            if tensor.is_cuda:
                torch.cuda.synchronize()
            values.append(time.perf_counter() - begun)
    return [statistics.median(values[2:]) for values in seconds.values()]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ordered_all_reduce(benchmark, record, ranks):
    backend = "nccl" if torch.cuda.device_count() >= ranks else "gloo"
    found = benchmark.pedantic(run_ranks, args=(measure, ranks, 20), kwargs={"backend": backend}, rounds=1)
    default, ordered = found[0]
    record(f"ordered / default reduction of {BUCKET_MIB} MiB, {backend}, {ranks} ranks", ordered / default)
