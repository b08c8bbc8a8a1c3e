"""The numbers in the project's README, against the recorded tables from which they come."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from symbreak.sweeps.audit.records import read

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "sweeps" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOOP, PIPELINE = "steps per second / those of a bare loop", "steps per second / those of the published pipeline"
ALL = "all callbacks"
SPEED = {
    "steps per second, of a bare": ("{:.2f}", [f"{LOOP}, ConstNet {size}" for size in ("10-1", "16-1", "16-4")]),
    "the same, as `symbreak fit` trains": ("{:.1f}", [f"{LOOP}, ConstNet 10-1, as `symbreak fit` trains by default"]),
    "of the published pipeline's": ("{:.1f}", [f"{PIPELINE}, ConstNet 16-1, as `symbreak fit` trains by default"]),
    "sampled NumPy": ("{:.0f}", ["sampled reference / all exact weight measures, he init"]),
    "all measuring callbacks but ranks at every step": (
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
LAYERS = ["conv", "linear"]
SPATIAL = ["batch_norm_input_grad", "mean_pool_forward"]
AUDIT: dict[str, tuple[list[str], dict[str, list[Any]]]] = {
    "convolution and linear": (LAYERS, {}),
    "batch norm, input gradient": (SPATIAL, {"memory_format": ["contiguous"]}),
    "the same: channels_last": (SPATIAL, {"memory_format": ["channels_last"]}),
    "SGD, for-loop or foreach": (["sgd_forloop", "sgd_foreach"], {}),
    "SGD, fused": (["sgd_fused"], {}),
    "AdamW": (["adamw"], {}),
    "all-reduce, 2 ranks": (["all_reduce_default"], {"world_size": [2]}),
    "all-reduce, 3, 4, 8 ranks": (["all_reduce_default"], {"world_size": [3, 4, 8]}),
    "`ordered_all_reduce`": (["all_reduce_ordered"], {}),
}
"""Start of a row of README's audit table: starts of its operations, and other columns of the record."""


@pytest.fixture(scope="module")
def audit():
    return read(RESULTS / "audit_cpu.json")


def verdict(cases: pd.DataFrame) -> str:
    """Return what README's audit table says of cases."""
    assert len(cases)
    failed = cases[cases["symmetric"].eq(False)]
    if failed.empty:
        return "symmetric"
    if failed["shape"].nunique() == 1:
        return "asymmetric at one shape"
    return "asymmetric at odd channel counts" if (failed["channels"] % 2 == 1).all() else "asymmetric"


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


@pytest.mark.parametrize("row", AUDIT)
def test_the_verdicts_are_those_of_the_audit(audit, row):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row}")]
    starts, where = AUDIT[row]
    frame = audit[1][audit[1]["operation"].str.startswith(tuple(starts))]
    for column, values in where.items():
        frame = frame[frame[column].isin(values)]
    columns = [["float64"], ["float32"], ["bfloat16", "float16"]]
    expected = [verdict(frame[frame["precision"].isin(precisions)]) for precisions in columns]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_the_counts_and_the_machine_are_those_of_the_audit(audit):
    provenance, frame = audit
    assert f"All {frame['repeatable'].eq(True).sum():,} cases were repeatable" in README
    assert not frame["repeatable"].eq(False).any()
    assert f"; {frame['symmetric'].eq(False).sum()} were not symmetric" in README
    environment = provenance["environment"]
    version = ".".join(environment["torch"].split(".")[:2])
    assert f"one {environment['cpu_capability']} CPU, torch {version}, {environment['threads']} threads" in README


@pytest.mark.parametrize(("name", "expected"), [("xeon", "symmetric"), ("xeon_mkl_avx2", "asymmetric")])
def test_the_verdicts_on_float64_are_those_of_the_audits_of_other_kernels(name, expected):
    provenance, frame = read(RESULTS / f"audit_cpu_{name}.json")
    environment = provenance["environment"]
    frame = frame[frame["operation"].str.startswith(tuple(LAYERS)) & frame["precision"].eq("float64")]
    assert verdict(frame) == expected
    assert f"an {environment['cpu_capability']} Intel Xeon, torch {environment['torch'][:4]}, " in " ".join(
        README.split()
    )
    assert "Xeon" in environment["device"]
    assert environment["cpu_dispatch"] == (None if name == "xeon" else "MKL_ENABLE_INSTRUCTIONS=AVX2")


def test_the_figures_of_the_engine_are_those_of_the_benchmarks(figures):
    text = " ".join(README.split())
    benchmarks = json.loads((RESULTS / "benchmarks_cpu" / "engine.json").read_text())["benchmarks"]
    (grid,) = [each for each in benchmarks if each["name"] == "test_large_grid"]
    offered = next(line["value"] for line in grid["extra_info"]["figures"] if "to offer" in line["figure"])
    assert f"is offered in {offered:.1f} s" in text
    assert f"one look at it takes {figures['milliseconds of one look at 10,000 points']:.1f} ms" in text
    assert f"looks adds {figures['KiB of growth over the second hour of polls']:.1f} KiB" in text


def test_the_table_of_the_demo_is_that_of_its_record():
    with (RESULTS / "quickstart" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 5
    for run in runs:
        (line,) = [line for line in README.splitlines() if line.startswith(f"│ {run['arm']} ")]
        _, _, accuracy, distinct, broken, escape, growth, _ = (cell.strip() for cell in line.split("│"))
        assert accuracy == f"{float(run['test/accuracy']):.1%}"
        assert distinct == run["distinct_filters"]
        assert growth == (f"{float(run['symmetry/growth_rate']):.3f}" if run["symmetry/growth_rate"] else "-")
        assert [broken, escape] == [run[f"symmetry/{key}_step"] or "never" for key in ("broken", "escape")]
