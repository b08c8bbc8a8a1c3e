import json
import sys

import pytest
import yaml
from tests.sweeps.trace import networks

from symbreak.sweeps.cli import main as symbreak
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.trace.command import main

CONFIG = ["--config=sweeps/configs/digits.yaml", "--model.init_args.depth=7", "--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["symbreak"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("SYMBREAK_RUN_DIR", str(tmp_path / "unnamed"))


def traced(tmp_path, *options):
    assert main([*CONFIG, f"--run.dir={tmp_path / 'run'}", "--steps=4", *options]) == 0
    return json.loads((tmp_path / "run" / "trace.json").read_text()), (tmp_path / "run" / "trace.html").read_text()


def test_a_strict_run_from_zero_has_no_separation(tmp_path, capsys):
    found, page = traced(tmp_path)
    assert found["verdict"].startswith("no operation separated identical channels in 4 steps (")
    assert found["operations"] > 200
    assert found["rows"] == []
    assert found["verdict"] in page
    assert found["verdict"] in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])  # under Adam all hidden units die, and the momentum goes on
def test_pixels_that_differ_because_of_earlier_batches_are_no_break(tmp_path, optimizer):
    options = ["--config=digits", "--model=MLP", "--model.init_args.depth=3", f"--optimizer={optimizer}", "--steps=6"]
    assert main([*options, "--no-audit", f"--run.dir={tmp_path / 'run'}"]) == 0
    found = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert found["verdict"].startswith("no operation separated identical channels in 6 steps (")
    assert found["rows"] == []


def test_dropout_is_named_for_each_layer_with_the_chain_to_it(tmp_path):
    found, page = traced(tmp_path, "--model.init_args.dropout=0.1")
    assert "random numbers, aten::bernoulli_, output of blocks.0.regularizer" in found["verdict"]
    rows = {row["layer"]: row for row in found["rows"]}
    assert rows["blocks.1.conv.weight, filters"]["operation"] == "aten::bernoulli_"
    assert rows["blocks.1.conv.weight, filters"]["where"] == "output of blocks.1.regularizer, forward"
    assert rows["blocks.1.conv.weight, filters"]["audit"] == "-"
    assert any(row["cause"] == "spread" for row in found["rows"])
    assert "From the operation to the layers" in page
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["symmetry"]["cause"] == found["verdict"]


def test_initial_noise_is_named_by_layer(tmp_path):
    found, page = traced(tmp_path, "--model.init_args.noise_scale=1e-3")
    assert found["verdict"].startswith("symmetry was broken from the start: initial weights differ in stem.weight")
    rows = {row["layer"]: row for row in found["rows"] if row["operation"] == "initial weights"}
    assert {"stem.weight, filters", *(f"blocks.{block}.conv.weight, filters" for block in range(3))} <= rows.keys()
    assert {(row["step"], row["groups"]) for row in rows.values()} == {("0", "16"), ("0", "32"), ("0", "64")}
    assert "values initial weights: stem.weight, filters; " in page


def test_rounding_noise_is_named_by_its_callback(tmp_path):
    found, _ = traced(tmp_path, "--rounding_noise.ulps=1")
    assert "between backward and optimizer" in {part for row in found["rows"] for part in row["where"].split(", ")}
    assert "RoundingNoise." in found["verdict"]


@pytest.mark.parametrize(("network", "step"), [("Noisy", 1), ("LateNoisy", 6)])
def test_an_unseeded_random_operation_is_found_by_repeating(tmp_path, capsys, network, step):
    file = tmp_path / "noisy.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": f"{networks.__name__}.{network}"},
                "trainer": {"num_sanity_val_steps": 0, "accelerator": "cpu"},
            }
        )
    )
    config = [f"--config={file}"]
    assert main([*config, "--repeat", "--steps=7", f"--output={tmp_path / 'two.json'}"]) == 0
    found = json.loads((tmp_path / "two.json").read_text())
    assert (found["kind"], found["step"]) == ("random", step)
    assert found["one"]["operation"] == "aten::rand"
    assert "Noisy.forward" in found["one"]["place"]
    assert found["one"]["read"] == found["other"]["read"]
    assert found["verdict"] in capsys.readouterr().out
    assert found["one"]["made"][0] in (tmp_path / "two.html").read_text()


def test_two_equal_runs_do_not_diverge_and_other_settings_do(tmp_path, capsys):
    saved = tmp_path / "saved.json"
    assert main([*CONFIG, f"--save={saved}", "--steps=2"]) == 0
    assert main([*CONFIG, f"--against={saved}"]) == 0
    assert "no divergence in 2 steps (" in capsys.readouterr().out
    assert main([*CONFIG, f"--against={saved}", "--optimizer.init_args.lr=0.01"]) == 0
    assert "optimizer: its inputs are equal" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists; choose another name"):
        main([*CONFIG, f"--save={saved}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repeat", "--save=a.json"], "exclude each other"),
        (["--steps=0"], "--steps must be at least 1, got 0"),
        (["--against=missing.json"], "missing.json: not a recording"),
        (["--steps=x"], "invalid int value: 'x'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        main([*CONFIG, *options])


def test_a_failed_run_is_said_in_one_line(capsys):
    assert symbreak(["trace", *CONFIG, "--save=never.json", "--model.init_args.depth=8"]) == 2
    assert "a run failed: " in capsys.readouterr().err


def test_help_names_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Takes every option of `symbreak fit`" in capsys.readouterr().out
