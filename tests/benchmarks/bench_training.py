"""Training against a bare PyTorch loop, and against the pipeline of published scripts."""

import statistics
import time
from itertools import pairwise

import pytest
import torch

from callbacks import FeatureDiversity, SymmetryBreaking, Throughput
from datamodules import DigitsDataModule
from lightning_modules import ConstNet
from sweeps.run_folder import RunLogger
from tests.benchmarks.loops import RandomImages, bare, lightning, published

ON_GPU = torch.cuda.is_available()
WIDTHS = (1, 4, 10) if ON_GPU else (1, 4)
STEPS = dict.fromkeys(WIDTHS, 50) if ON_GPU else {1: 6, 4: 1}
AIMS = {1: ">= 0.95", 4: ">= 0.95", 10: ">= 0.97"}
RATIO = "steps per second / those of a bare loop"


def test_against_a_bare_loop_on_digits(compare_loops, record, device):
    loops = {
        "Lightning": lightning(ConstNet(10, 1, in_channels=1), DigitsDataModule()),
        "bare": bare(ConstNet(10, 1, in_channels=1), DigitsDataModule(), device),
    }
    seconds = compare_loops(loops, steps=50, rounds=15)
    record(f"{RATIO}, ConstNet 10-1", seconds["bare"] / seconds["Lightning"], ">= 0.85")


@pytest.mark.parametrize("width", WIDTHS)
def test_against_a_bare_loop(compare_loops, record, device, width):
    loops = {
        "Lightning": lightning(ConstNet(16, width), RandomImages()),
        "bare": bare(ConstNet(16, width), RandomImages(), device),
    }
    seconds = compare_loops(loops, STEPS[width], rounds=9)
    record(f"{RATIO}, ConstNet 16-{width}", seconds["bare"] / seconds["Lightning"], AIMS[width])


def test_against_the_published_pipeline(compare_loops, record, device):
    loops = {
        "Lightning": lightning(ConstNet(16, 1), RandomImages()),
        "published": published(ConstNet(16, 1), device),
    }
    seconds = compare_loops(loops, steps=30, rounds=7)  # longer than what a worker loads ahead while others train
    aim = ">= 3" if ON_GPU else ">= 1.3"
    record(
        "steps per second / those of the published pipeline, ConstNet 16-1",
        seconds["published"] / seconds["Lightning"],
        aim,
    )


def test_a_long_run_stays_as_fast(benchmark, record, tmp_path):
    """20,000 steps with all that a run of `symbreak fit` writes and watches by default."""
    begun: list[float] = []
    memory: list[int] = []

    def tick() -> bool:
        begun.append(time.perf_counter())
        if len(begun) % 1000 == 1:
            memory.append(resident_bytes())
        return len(begun) <= 20_000

    network, data = ConstNet(7, 1, in_channels=1), DigitsDataModule(batch_size=32)
    callbacks = [FeatureDiversity(), SymmetryBreaking(), Throughput()]
    benchmark.pedantic(lightning(network, data, callbacks, logger=RunLogger(tmp_path)), args=(tick,), rounds=1)
    seconds = [after - before for before, after in pairwise(begun)]
    for name, mean in (("median", statistics.median), ("mean", statistics.mean)):
        ratio = mean(seconds[-1000:]) / mean(seconds[:1000])
        record(f"{name} step of the last thousand of 20,000 / of the first", ratio, "0.95 to 1.05")
    record("growth of resident memory from step 2,000 to 20,000, MiB", (memory[-1] - memory[2]) / 2**20)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * 4096
