from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.cli import main
from symbreak.sweeps.run import memory_format
from symbreak.sweeps.run.folder import read_json
from symbreak.sweeps.run.memory_format import channels_last_is_safe, known_counts

MACHINE = {"device": "a CPU", "cpu_capability": "AVX2", "threads": 2, "torch": "2.15.0+cpu"}
CPU = torch.device("cpu")


def audit(asymmetric=(), **machine):
    shapes = [f"8x{count}x8x8" for count in (16, 17, 64)]
    operations = ("conv3x3_forward", "batch_norm_input_grad")
    rows = [
        [name, "float32", shape, "channels_last", "strict", "ok", (name, shape) not in asymmetric]
        for name in operations
        for shape in shapes
    ]
    columns = ["operation", "precision", "shape", "memory_format", "mode", "status", "symmetric"]
    return {"provenance": {"environment": MACHINE | machine}, "columns": columns, "rows": rows}


ODD = [("batch_norm_input_grad", "8x17x8x8")]


def test_a_count_is_known_where_all_operations_are_symmetric():
    assert known_counts([audit(ODD)], MACHINE, "float32") == {16, 64}
    assert known_counts([audit(ODD)], MACHINE, "bfloat16") == set()
    assert known_counts([audit(), audit(ODD)], MACHINE, "float32") == {16, 64}


OTHERS = [{"threads": 1}, {"cpu_capability": "AVX512"}, {"torch": "2.14.1"}, {"device": "b"}]


@pytest.mark.parametrize("other", [*OTHERS, {"cpu_dispatch": "MKL_ENABLE_INSTRUCTIONS=AVX2"}])
def test_an_audit_of_another_kind_of_machine_is_no_knowledge(other):
    assert known_counts([audit(**other)], MACHINE, "float32") == set()


@pytest.fixture
def audited(monkeypatch):
    machine: dict[str, Any] = dict(memory_format.environment())
    monkeypatch.setattr(memory_format, "_audits", lambda: [audit(ODD, **machine)])


def test_the_rule_asks_for_channels_precision_and_device(audited):
    small = ConstNet(depth=7, widen_factor=1)
    assert channels_last_is_safe(small, "32-true", CPU)
    assert not channels_last_is_safe(small, "64-true", CPU)
    assert not channels_last_is_safe(small, "32-true", torch.device("cuda"))
    assert not channels_last_is_safe(nn.Conv2d(3, 17, 3), "32-true", CPU)
    assert not channels_last_is_safe(nn.Conv2d(3, 8, 3), "32-true", CPU)
    assert not channels_last_is_safe(nn.Conv2d(16, 16, 3, groups=2), "32-true", CPU)
    assert not channels_last_is_safe(nn.Linear(16, 16), "32-true", CPU)


@pytest.mark.parametrize(("options", "expected"), [((), True), (("--acceleration.channels_last=false",), False)])
def test_a_run_records_what_was_chosen(audited, monkeypatch, tmp_path, options, expected):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = ["--config=digits", "--model.init_args.depth=7", "--trainer.max_steps=1", "--run.test=false"]
    assert main(["fit", *words, *options, f"--run.dir={tmp_path / 'run'}"]) == 0
    assert read_json(tmp_path / "run" / "run.json")["acceleration"]["channels_last"] is expected


@pytest.mark.parametrize("name", ["audit_cpu.json", "audit_cpu_avx512.json", "audit_cpu_xeon.json"])
def test_the_recorded_audits_know_even_counts(name):
    recorded = read_json(Path("sweeps/results") / name)
    assert known_counts([recorded], recorded["provenance"]["environment"], "float32") == {16, 64}
