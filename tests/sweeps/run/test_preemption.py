import json
import os
import signal
import subprocess
import sys
import time

import torch

FIT = [sys.executable, "-m", "sweeps", "fit", "--config=sweeps/configs/digits.yaml", "--model.init_args.depth=7"]
FIT += ["--trainer.max_steps=150", "--rounding_noise.ulps=1", "--model.init_args.dropout=0.1", "--wandb.mode=disabled"]


def status(run):
    return json.loads((run / "run.json").read_text())["status"]


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def wait_for_step(run, step, process):
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if (run / "summary.json").is_file() and json.loads((run / "summary.json").read_text())["step"] >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached")


def test_a_preempted_run_goes_on_bit_for_bit(tmp_path):
    straight, preempted = tmp_path / "straight", tmp_path / "preempted"
    subprocess.run([*FIT, f"--run.dir={straight}"], check=True, capture_output=True)
    process = subprocess.Popen(
        [*FIT, f"--run.dir={preempted}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True
    )
    wait_for_step(preempted, 19, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert status(preempted) == "preempted"
    checkpoint = preempted / "checkpoints" / "resume.ckpt"
    assert 19 < torch.load(checkpoint, weights_only=True)["global_step"] < 150
    resumed = [*FIT, f"--run.dir={preempted}", f"--ckpt_path={checkpoint}"]
    subprocess.run(resumed, check=True, capture_output=True)
    assert status(preempted) == "finished"
    expected, actual = weights(straight), weights(preempted)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
