"""Comparison of twenty runs of ConstNet 16-4: time and peak memory."""

import json
import subprocess
import sys

import yaml
from tests.benchmarks.commands import ROOT, run_measured

RUN = [
    *("symbreak", "fit", "--config", "sweeps/configs/digits.yaml"),
    *("--model.init_args.depth=16", "--model.init_args.widen_factor=4", "--trainer.max_steps=2"),
    *("--trainer.limit_val_batches=0", "--data.init_args.batch_size=16", "--snapshots.per_doubling=1"),
    *("--wandb.mode=disabled", "${args}"),
]


def test_twenty_runs(benchmark, record, tmp_path):
    parameters = {"model.init_args.init": {"values": ["he", "xavier"]}, "seed_everything": {"values": list(range(10))}}
    sweep = tmp_path / "twenty.yaml"
    sweep.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters, "command": RUN}))
    train = [sys.executable, "-m", "symbreak.sweeps", "sweep", str(sweep), "--output", str(tmp_path / "runs")]
    subprocess.run(train, check=True, capture_output=True, cwd=ROOT)
    words = ("compare", tmp_path / "runs", "-o", tmp_path / "page.html", "--json", tmp_path / "pairs.json")
    seconds, peak = benchmark.pedantic(run_measured, args=words, rounds=1)
    pairs = json.loads((tmp_path / "pairs.json").read_text())
    assert len(pairs) == 20 * 19 / 2
    record("all 190 pairs of twenty runs of ConstNet 16-4, four of them examined: seconds", seconds, "< 60")
    record("the same: peak memory, GB", peak, "< 4")
