"""Grids against W&B's own search library, which imports as `sweeps`, so it needs an environment of its own.

python -m venv other && other/bin/pip install sweeps && WANDB_SWEEPS_PYTHON=other/bin/python pytest <this file>
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from symbreak.sweeps.search import space

SWEEPS = Path(__file__).parents[3] / "sweeps"
PYTHON = os.environ.get("WANDB_SWEEPS_PYTHON")
NEXT_RUNS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from sweeps import next_run
for config in json.load(sys.stdin):
    runs = []
    while (run := next_run(config, runs)) is not None:
        runs.append(run)
    print(json.dumps([run.config for run in runs]))
"""
FORMS = [
    {"b": {"values": [1, 2]}, "a": {"values": ["x", "y", "z"]}},
    {"lr": {"value": 0.1}, "seed": {"distribution": "int_uniform", "min": 0, "max": 3}},
    {"seed": {"min": 2, "max": 4}, "flag": {"values": [True, False, None]}},
    {"q": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}},
    {"q": {"distribution": "q_uniform", "min": 0.0, "max": 0.9, "q": 0.25}},
    {"net": {"parameters": {"depth": {"values": [2, 3]}, "wide": {"parameters": {"k": {"values": [1, 2]}}}}}},
    {"scale": {"values": [1.0e-8, 1.0e-4, 1]}, "repeated": {"values": ["a", "b", "a"]}},
]


def own_files():
    files = (yaml.safe_load(path.read_text()) for path in sorted(SWEEPS.glob("*.yaml")))
    return [content["parameters"] for content in files if content["method"] == "grid"]


def in_order(points):
    return sorted(json.dumps(point, sort_keys=True) for point in points)


@pytest.mark.skipif(PYTHON is None, reason="WANDB_SWEEPS_PYTHON names no interpreter with the library `sweeps`")
def test_a_grid_has_the_points_that_wandb_hands_out():
    forms = FORMS + own_files()
    sent = json.dumps([{"method": "grid", "parameters": parameters} for parameters in forms])
    command = [str(PYTHON), "-P", "-c", NEXT_RUNS]  # not this project's own folder `sweeps`
    found = subprocess.run(command, input=sent, capture_output=True, text=True, check=True)
    for parameters, line in zip(forms, found.stdout.splitlines(), strict=True):
        theirs = [{name: value["value"] for name, value in run.items()} for run in json.loads(line)]
        assert in_order(space.grid_points(parameters)) == in_order(theirs)
