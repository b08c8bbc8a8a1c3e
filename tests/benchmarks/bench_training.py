"""Training against a bare PyTorch loop, and against the pipeline of published scripts."""

import statistics
import time

import pytest
import torch
from tests.benchmarks.loops import Plain, RandomImages, bare, lightning, published
from tests.benchmarks.turns import Contender, take_turns

from symbreak.callbacks import Acceleration, FeatureDiversity, SymmetryBreaking, Throughput
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.run.logger import RunLogger
from symbreak.sweeps.run.memory_format import channels_last_is_safe

ON_GPU = torch.cuda.is_available()
WIDTHS = (1, 4, 10) if ON_GPU else (1, 4)
STEPS = dict.fromkeys(WIDTHS, 50) if ON_GPU else {1: 6, 4: 1}
AIMS = {1: ">= 0.95", 4: ">= 0.95", 10: ">= 0.97"}
BY_DEFAULT = "as `symbreak fit` trains by default"
RATIO = "steps per second / those of a bare loop"


def test_against_a_bare_loop_on_digits(compare_loops, record, device):
    loops = {
        "Lightning": lightning(ConstNet(10, 1, in_channels=1), DigitsDataModule()),
        "default": lightning(ConstNet(10, 1, in_channels=1), DigitsDataModule(), [default_acceleration()]),
        "plain": lightning(Plain(ConstNet(10, 1, in_channels=1)), DigitsDataModule()),
        "bare": bare(ConstNet(10, 1, in_channels=1), DigitsDataModule(), device),
    }
    seconds = compare_loops(loops, steps=50, rounds=15)
    record(f"{RATIO}, ConstNet 10-1", seconds["bare"] / seconds["Lightning"], ">= 0.95")
    record(f"{RATIO}, ConstNet 10-1, {BY_DEFAULT}", seconds["bare"] / seconds["default"], ">= 0.95")
    record(f"{RATIO}, ConstNet 10-1, Lightning without metrics and logs", seconds["bare"] / seconds["plain"])


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
        "default": lightning(ConstNet(16, 1), RandomImages(), [default_acceleration()]),
        "channels_last": lightning(ConstNet(16, 1), RandomImages(), [Acceleration(channels_last=True)]),
        "published": published(ConstNet(16, 1), device),
    }
    seconds = compare_loops(loops, steps=30, rounds=5)  # longer than what a worker loads ahead while others train
    ratio, aim = "steps per second / those of the published pipeline, ConstNet 16-1", ">= 3" if ON_GPU else ">= 1.3"
    record(ratio, seconds["published"] / seconds["Lightning"], aim)
    record(f"{ratio}, {BY_DEFAULT}", seconds["published"] / seconds["default"], ">= 1.5")
    record(f"{ratio}, with channels_last", seconds["published"] / seconds["channels_last"], aim)


def test_a_long_run_stays_as_fast(benchmark, record, tmp_path, device):
    """20,000 steps with all that `symbreak fit` writes and watches by default.

    A bare loop takes turns in the first and the last thousand, and so tells the run from the machine.
    """
    network, data = ConstNet(7, 1, in_channels=1), DigitsDataModule(batch_size=32)
    callbacks = [FeatureDiversity(), SymmetryBreaking(), Throughput()]
    ours, control = [], []
    loops = {
        "run": timed(lightning(network, data, callbacks, logger=RunLogger(tmp_path)), ours),
        "bare": timed(bare(ConstNet(7, 1, in_channels=1), DigitsDataModule(batch_size=32), device), control),
    }
    memory = []

    def all_turns() -> None:
        with take_turns(loops, steps=100) as turns:
            for turn in range(200):
                turns["run"]()
                memory.append(resident_bytes())
                if not 10 <= turn < 190:
                    turns["bare"]()

    benchmark.pedantic(all_turns, rounds=1)
    for name, middle in (("median", statistics.median), ("mean", statistics.mean)):
        growth, machine = (middle(each[-1000:]) / middle(each[:1000]) for each in (ours, control))
        aim = "<= 1.05" if name == "median" else ""
        record(
            f"{name} step of the last thousand of 20,000 / of the first, against a bare loop's", growth / machine, aim
        )
    record("growth of resident memory from step 2,000 to 20,000, MiB", (memory[-1] - memory[19]) / 2**20)


def default_acceleration() -> Acceleration:
    """What `symbreak fit` sets by itself."""
    callback = Acceleration(channels_last="auto")
    callback.is_safe = channels_last_is_safe
    return callback


def timed(loop: Contender, seconds: list[float]) -> Contender:
    """The same loop; adds the time of each step, without what others do in between."""

    def contender(tick):
        begun = None

        def between_steps():
            nonlocal begun
            if begun is not None:
                seconds.append(time.perf_counter() - begun)
            goes_on = tick()
            begun = time.perf_counter()
            return goes_on

        loop(between_steps)

    return contender


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * 4096
