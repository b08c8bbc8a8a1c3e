"""Start-up: the command, a run from cold up to its first step, and runs of a sweep from the fork server."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from symbreak.sweeps.engine.job import Job
from symbreak.sweeps.engine.local import ForkServer

ROOT = Path(__file__).parents[2]
FIT = ["symbreak", "fit", "--config", "sweeps/configs/digits.yaml", "--trainer.max_steps=1", "--run.test=false"]
RUNS = 10
IMPORTS_AND_FIT = """
import functools, sys, time
begun = time.perf_counter()
import torch, pytorch_lightning
imported = time.perf_counter()
from symbreak.lightning_modules import ImageClassifier

training_step = ImageClassifier.training_step

@functools.wraps(training_step)  # Lightning looks at the parameters
def first_step(*arguments):
    print("seconds", imported - begun, time.perf_counter() - imported, flush=True)
    return training_step(*arguments)

ImageClassifier.training_step = first_step
from symbreak.sweeps.cli import main
sys.argv = ["symbreak", *sys.argv[1:]]
main()
"""


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"SYMBREAK_RUN_DIR": str(folder), "WANDB_MODE": "disabled"}


def test_help(benchmark, record):
    command, options = [sys.executable, "-m", "sweeps", "--help"], {"check": True, "capture_output": True, "cwd": ROOT}
    benchmark.pedantic(subprocess.run, args=(command,), kwargs=options, rounds=RUNS, warmup_rounds=1)
    record("seconds of `symbreak --help`", benchmark.stats.stats.median, "< 1")


def test_fit_from_cold(benchmark, record, tmp_path):
    seconds: list[tuple[float, ...]] = []

    def fit() -> None:
        command = [sys.executable, "-c", IMPORTS_AND_FIT, *FIT[1:]]
        options = {"check": True, "capture_output": True, "text": True, "cwd": ROOT}
        done = subprocess.run(command, env=environment(tmp_path / str(len(seconds))), **options)
        line = next(line for line in done.stdout.splitlines() if line.startswith("seconds"))
        seconds.append(tuple(map(float, line.split()[1:])))

    benchmark.pedantic(fit, rounds=5, warmup_rounds=1)
    imports, first_step = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
    record("seconds of importing torch and Lightning", imports)
    record("seconds from there to the first step of `symbreak fit`", first_step, "<= 3")


def test_runs_of_a_sweep(benchmark, record, tmp_path):
    """From the engine's order to the first line of the run folder."""
    server, seconds = ForkServer(), []

    def fork() -> None:
        folder = tmp_path / str(len(seconds))
        folder.mkdir()
        begun = time.perf_counter()
        run = server.start(Job(FIT, str(folder), {}, threads=2, cwd=str(ROOT)), environment(folder))
        while not (folder / "run.json").exists():
            time.sleep(0.002)
        seconds.append(time.perf_counter() - begun)
        run.process.join()
        assert run.exit_code() == 0, (folder / "log.txt").read_text()

    benchmark.pedantic(fork, rounds=RUNS, warmup_rounds=1)
    record("seconds to start the first run of a sweep", seconds[0])
    record("seconds to start a later one, mean", statistics.mean(seconds[1:]), "<= 0.7")
    record("seconds to start a later one, slowest", max(seconds[1:]), "<= 1")
