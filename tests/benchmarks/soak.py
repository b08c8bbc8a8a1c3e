"""Soak: 200 one-step runs over 2 workers while a random one of them is killed every few seconds.

    python tests/benchmarks/soak.py --points 200 --every 4

Ends with an error unless every point finished exactly once, none lost and none repeated.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml
from optuna.trial import TrialState

from symbreak.sweeps.engine.storage import open_storage
from symbreak.sweeps.engine.study import Store
from symbreak.sweeps.run.folder import read_json
from symbreak.sweeps.search import sweep_file

ROOT = Path(__file__).parents[2]
ONE_STEP = [
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.limit_test_batches=1"),
    *("--data.batch_size=8", "--wandb.mode=disabled", "--checkpoint.save_top_k=0", "--checkpoint.save_last=false"),
]


def write_sweep(path: Path, points: int) -> None:
    content = {
        "name": "soak",
        "method": "grid",
        "parameters": {"seed_everything": {"values": list(range(points))}},
        "command": ["${env}", "symbreak", "fit", "--config", "sweeps/configs/digits.yaml", *ONE_STEP, "${args}"],
    }
    path.write_text(yaml.safe_dump(content))


def children(parent: int) -> list[tuple[int, int]]:
    """Return (process, session) of every child of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append((int(stat.parent.name), int(fields[3])))
    return found


def kill_one(sweep: int) -> bool:
    """Kill a random run of a sweep: a child of its fork server that leads a session of its own."""
    runs = [pid for server, _ in children(sweep) for pid, session in children(server) if pid == session]
    if runs:
        os.kill(random.choice(runs), signal.SIGKILL)
    return bool(runs)


def soak(folder: Path, points: int, workers: int, every: float) -> dict[str, float]:
    path = folder / "soak.yaml"
    write_sweep(path, points)
    command = ["sweep", str(path), "--workers", str(workers), "--gpus-per-run", "0", "--output", str(folder / "runs")]
    begun, kills = time.monotonic(), 0
    with (folder / "log.txt").open("w") as log:
        sweep = subprocess.Popen([sys.executable, "-m", "sweeps", *command], cwd=ROOT, stdout=log, stderr=log)
    while sweep.poll() is None:
        time.sleep(every * random.uniform(0.5, 1.5))
        kills += kill_one(sweep.pid)
    seconds = time.monotonic() - begun
    sweep_of_file = sweep_file.load(path)
    trials = Store(sweep_of_file, open_storage(None, folder / "runs" / "soak")).study.get_trials()
    finished = Counter(trial.user_attrs["seat"] for trial in trials if trial.state == TrialState.COMPLETE)
    lost = sum(trial.user_attrs.get("lost") == "killed" for trial in trials)
    status = Counter(read_json(file).get("status") for file in (folder / "runs").glob("soak/*/run.json"))
    assert sweep.returncode == 0, (folder / "log.txt").read_text()[-2000:]
    assert len(finished) == points, f"{points - len(finished)} points were lost"
    assert set(finished.values()) == {1}, "a point was repeated"
    assert status == {"finished": points}, status
    return {"points": points, "kills": kills, "retries": lost, "seconds": seconds, "seconds_per_run": seconds / points}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=4.0, help="mean seconds between two kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(soak(Path(scratch), options.points, options.workers, options.every)))
