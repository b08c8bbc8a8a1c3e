"""Benchmarks by pytest-benchmark: ratios of contenders that take turns, as JSON and a table."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.benchmarks.turns import Contender, take_turns

from symbreak.callbacks import environment


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """Adds one line to the table: what was measured, its value, and the aim where there is one."""

    def add(figure: str, value: float, aim: str = "") -> None:
        benchmark.extra_info.setdefault("figures", []).append({"figure": figure, "value": value, "aim": aim})

    return add


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., dict[str, float]]:
    """Median seconds of each contender's turn; they take turns, and pytest-benchmark times the first of them."""

    def run(turns: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        (first, ours), *others = turns.items()
        seconds: dict[str, list[float]] = {name: [] for name in turns}

        def timed(name: str, turn: Callable[[], object]) -> None:
            begun = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - begun)

        def others_first() -> None:
            for name, turn in others:
                timed(name, turn)

        for turn in turns.values():
            turn()  # the first turn chooses kernels and fills caches
        benchmark.pedantic(timed, args=(first, ours), setup=others_first, rounds=rounds)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        benchmark.extra_info["seconds"] = {name: round(value, 6) for name, value in medians.items()}
        return medians

    return run


@pytest.fixture
def compare_loops(compare: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
    """As `compare`, for loops that train: median seconds of one step, with turns of ``steps`` steps."""

    def run(loops: dict[str, Contender], steps: int, rounds: int) -> dict[str, float]:
        with take_turns(loops, steps) as turns:
            return {name: seconds / steps for name, seconds in compare(turns, rounds).items()}

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What a result depends on, in place of the machine's name."""
    machine_info.clear()
    machine_info.update(environment() | {"cores": os.cpu_count()})


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keeps figures and medians, and writes the table beside the JSON."""
    for bench in output_json["benchmarks"]:
        bench["stats"] = {key: bench["stats"][key] for key in ("rounds", "median", "iqr")}
        for key in ("options", "param", "params", "fullname", "fullfunc", "group"):
            bench.pop(key, None)
    for key in ("branch", "project", "author_time"):
        output_json["commit_info"].pop(key, None)
    path: Path = config.getoption("benchmark_json")  # pyright: ignore[reportAssignmentType]
    path.with_suffix(".md").write_text(markdown(output_json))


def markdown(results: dict[str, Any]) -> str:
    """The figures as a table, under what they depend on."""
    machine, commit = results["machine_info"], results["commit_info"]
    facts = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
    lines = [f"Commit {commit['id']}{', changed' if commit['dirty'] else ''}; {results['datetime'][:10]}; {facts}.", ""]
    lines += ["| benchmark | figure | measured | aim |", "|---|---|---:|---:|"]
    for bench in results["benchmarks"]:
        for each in bench["extra_info"].get("figures", []):
            lines.append(
                f"| {bench['name'].removeprefix('test_')} | {each['figure']} | {each['value']:.4g} | {each['aim']} |"
            )
    return "\n".join(lines) + "\n"
