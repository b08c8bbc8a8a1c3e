"""What the driver of a sweep costs beside its runs."""

import io
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from rich.console import Console

from symbreak.sweeps.engine.driver import Driver
from symbreak.sweeps.engine.progress import Progress
from symbreak.sweeps.engine.study import Study
from symbreak.sweeps.search import sweep_file

ROOT = Path(__file__).parents[2]
POINTS = 10_000


class Idle:
    """An executor with room for a run more than there are."""

    def free(self) -> int:
        return 1

    def wait(self, seconds: float) -> None:
        pass


@pytest.fixture
def sweep():
    values = list(range(100))
    parameters = {"a": {"values": values}, "b": {"values": values}}
    return sweep_file.parse({"method": "grid", "program": "p", "parameters": parameters}, Path("big.yaml"))


@pytest.fixture
def done(sweep, tmp_path, record):
    """A sweep whose points are all finished."""
    begun = time.perf_counter()
    study = Study(sweep, tmp_path)
    record("seconds to offer a grid of 10,000 points", time.perf_counter() - begun, "<= 5")
    while (point := study.next()) is not None:
        study.begin(point)
        study.end(point, "finished", 1.0)
    begun = time.perf_counter()
    study = Study(sweep, tmp_path)
    record("seconds to read 10,000 finished points", time.perf_counter() - begun)
    assert study.is_done()
    return study


class Nowhere(io.StringIO):
    """A file that forgets what is written."""

    def write(self, text: str) -> int:
        return len(text)


def looker(study):
    """Return a function that looks at every run and shows where they are, as the driver does four times a second."""
    driver = Driver(study, Idle())  # pyright: ignore[reportArgumentType]
    console = Console(file=Nowhere(), width=200)
    progress = Progress("big", study.folder, study.total, study.sweep.metric, console)

    def look():
        driver.step()
        progress.show(study.points)

    return look


def test_large_grid(benchmark, record, done):
    benchmark.pedantic(looker(done), rounds=200, warmup_rounds=5)
    record("milliseconds of one look at 10,000 points", 1e3 * benchmark.stats["median"], "<= 20")


def test_memory_of_an_hour_of_polls(benchmark, record, done):
    look = looker(done)

    def hour():
        for _ in range(3600 * 4):
            look()

    tracemalloc.start()
    hour()
    before = tracemalloc.get_traced_memory()[0]
    benchmark.pedantic(hour, rounds=1)
    record("KiB of growth over the second hour of polls", (tracemalloc.get_traced_memory()[0] - before) / 1024, "<= 4")
    tracemalloc.stop()


@pytest.mark.parametrize("options", [[], ["--ray", "--every", "12"]], ids=["local", "ray"])
def test_soak(benchmark, record, options):
    """200 points while runs and the driver are killed; the counts, and resumed runs bit-identical to others."""
    points = "200" if not options else "60"
    command = [sys.executable, ROOT / "tests" / "benchmarks" / "soak.py", "--points", points, *options]

    def run():
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    counts = benchmark.pedantic(run, rounds=1)
    for name, count in counts.items():
        record(f"{'ray' if options else 'local'} soak: {name}", count)
