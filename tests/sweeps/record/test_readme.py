"""The numbers in the project's README, against the recorded tables from which they come."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "sweeps" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOOP, PIPELINE = "steps per second / those of a bare loop", "steps per second / those of the published pipeline"
ALL = "all callbacks"
SPEED = {
    "steps per second, of a bare": ("{:.2f}", [f"{LOOP}, ConstNet {size}" for size in ("10-1", "16-1", "16-4")]),
    "of the published pipeline's": ("{:.1f}", [f"{PIPELINE}, ConstNet 16-1, as `symbreak fit` trains by default"]),
    "sampled NumPy": ("{:.0f}", ["sampled reference / all exact weight measures, he init"]),
    "all measuring callbacks at every step": (
        "{:.0f}",
        [f"{ALL} but ranks at every step, % of a step, ConstNet {size}" for size in ("10-1", "16-4")],
    ),
    "`wandb.watch": (
        "{:.0f}",
        [f"wandb.watch at every step, % of a step, ConstNet {size}" for size in ("10-1", "16-4")],
    ),
    "on their default schedule": (
        "{:.2f}",
        [f"{ALL} by default, % of a run of 5000 steps, ConstNet {size}" for size in ("10-1", "16-4")],
    ),
    "a traced step": ("{:.1f}", ["traced step / untraced step, ConstNet 16-1, batch 128"]),
}


@pytest.fixture(scope="module")
def figures():
    files = (RESULTS / "benchmarks_cpu").glob("*.json")
    benchmarks = [each for file in files for each in json.loads(file.read_text())["benchmarks"]]
    return {line["figure"]: line["value"] for each in benchmarks for line in each["extra_info"].get("figures", [])}


@pytest.mark.parametrize("row", SPEED)
def test_the_speeds_are_those_of_the_benchmarks(figures, row):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row}")]
    form, names = SPEED[row]
    assert re.findall(r"\d[\d.]*", line.split("|")[2]) == [form.format(figures[name]) for name in names]


def test_the_table_of_the_demo_is_that_of_its_record():
    with (RESULTS / "quickstart" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 5
    for run in runs:
        (line,) = [line for line in README.splitlines() if line.startswith(f"│ {run['arm']} ")]
        _, _, accuracy, _, broken, escape, _, _ = (cell.strip() for cell in line.split("│"))
        assert accuracy == f"{float(run['test/accuracy']):.1%}"
        assert [broken, escape] == [run[f"symmetry/{key}_step"] or "never" for key in ("broken", "escape")]
