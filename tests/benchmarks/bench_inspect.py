"""Inspection of checkpoints with layers of a 7-billion-parameter model: time and peak memory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.benchmarks.commands import run_measured

SHAPES = {"q_proj": (4096, 4096), "gate_proj": (11008, 4096), "down_proj": (4096, 11008)}
LAYERS = {"safetensors": 9, "bin": 2}
"""Number of layers of each shape by kind of shard: 1.9 and 0.4 GB in bfloat16."""


def write_checkpoint(folder: Path, kind: str) -> Path:
    """Write a shard per index; all layers of a shape are one random tensor, so that little time and memory is spent."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    tensors["gate_proj"][7] = tensors["gate_proj"][3]
    files = {}
    for index in range(LAYERS[kind]):
        file = folder / f"part-{index}.{kind}"
        part = {f"layers.{index}.{name}.weight": tensor for name, tensor in tensors.items()}
        save_file(part, file) if kind == "safetensors" else torch.save(part, file)
        files |= dict.fromkeys(part, file.name)
    index_file = folder / "model.index.json"
    index_file.write_text(json.dumps({"weight_map": files}))
    return index_file


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_inspect(benchmark, record, tmp_path, kind):
    path, page = write_checkpoint(tmp_path, kind), tmp_path / "page.html"
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    seconds, peak = benchmark.pedantic(run_measured, args=("inspect", path, "-o", page), rounds=1)
    assert page.read_text().count("rows 3, 7 are copies") == LAYERS[kind]
    for file in tmp_path.iterdir():
        file.unlink()
    record(f"{kind}: size of the checkpoint, GB", size / 1e9)
    record(f"{kind}: peak memory, GB", peak, "< 1")
    record(f"{kind}: seconds per GB", seconds / size * 1e9)
