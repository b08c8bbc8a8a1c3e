import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from symbreak.sweeps.run import folder
from symbreak.sweeps.run.folder import read_json
from symbreak.sweeps.run.outcome import read_outcome

FIT = [sys.executable, "-m", "symbreak.sweeps", "fit", "--config=digits", "--model.init_args.depth=7"]
FIT += ["--trainer.max_steps=600", "--rounding_noise.ulps=1", "--model.init_args.dropout=0.1", "--wandb.mode=disabled"]


def state(run):
    return read_json(run / "run.json")


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def start(run, *options):
    words = [*FIT, f"--run.dir={run}", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if read_json(run / "summary.json").get("step", 0) >= 19:
            return process
        time.sleep(0.1)
    raise AssertionError("step 19 was not reached")


def test_a_preempted_run_goes_on_bit_for_bit(tmp_path):
    straight, preempted = tmp_path / "straight", tmp_path / "preempted"
    done = subprocess.run([*FIT, f"--run.dir={straight}"], check=True, capture_output=True, text=True)
    assert done.stderr == ""  # no harmless warning
    process = start(preempted)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert (state(preempted)["status"], state(preempted)["error"]) == ("preempted", None)
    checkpoint = preempted / "checkpoints" / "resume.ckpt"
    assert 19 < torch.load(checkpoint, weights_only=True)["global_step"] < 600
    onward = said.strip().rpartition("go on with it by: symbreak ")[2].split()
    assert onward == ["fit", "--ckpt_path", str(checkpoint), "--run.dir", str(preempted)]
    subprocess.run([*FIT[:3], *onward], check=True, capture_output=True)
    assert state(preempted)["status"] == "finished"
    expected, actual = weights(straight), weights(preempted)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, "killed")],
)
def test_a_run_that_a_signal_ended(tmp_path, number, code, status):
    process = start(tmp_path / "run", "--trainer.max_steps=100000")
    assert folder.status(tmp_path / "run", state(tmp_path / "run")) == "running"
    process.send_signal(number)
    out, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert "was interrupted at step" in said
        assert state(tmp_path / "run")["error"] is None
    assert folder.status(tmp_path / "run", state(tmp_path / "run")) == status
    seen = read_outcome(tmp_path / "run")
    assert seen.censored_at is not None
    assert seen.censored_at >= 19
    assert "step 1 of 100000, epoch 1" in out
