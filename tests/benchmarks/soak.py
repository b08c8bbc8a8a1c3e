"""Soak: short runs while a random one is killed every few seconds and the driver three times.

    python tests/benchmarks/soak.py --points 200 --every 4
    python tests/benchmarks/soak.py --points 200 --every 4 --ray

With `--ray` the runs go to a simulated cluster of three nodes, of which one is removed and another added meanwhile.
Ends with an error unless every point finished exactly once, no folder is gone, and interrupted runs have the weights
of uninterrupted ones, bit for bit.
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

import torch
import yaml

ROOT = Path(__file__).parents[2]
SHORT = [
    *("--trainer.max_steps=60", "--trainer.limit_val_batches=0", "--trainer.limit_test_batches=1"),
    *("--data.batch_size=64", "--wandb.mode=disabled", "--exact_resume.every_n_steps=5"),
    *("--model.init_args.depth=7", "--model.init_args.init=he", "--checkpoint.save_last=true"),
]


def write_sweep(path: Path, points: int) -> None:
    command = ["symbreak", "fit", "--config", "sweeps/configs/digits.yaml", *SHORT, "${args}"]
    parameters = {"seed_everything": {"values": list(range(points))}}
    path.write_text(yaml.safe_dump({"name": "soak", "method": "grid", "parameters": parameters, "command": command}))


def runs_of(folder: Path) -> list[int]:
    """Return the processes that lead the session of a run: those whose environment names a run folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes()
            session = int((process / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except OSError:
            continue
        log = os.readlink(process / "fd" / "1") if (process / "fd" / "1").exists() else ""
        if session == int(process.name) and (str(folder) in log or f"RUN_DIR={folder}".encode() in variables):
            found.append(session)
    return found


class Cluster:
    """A simulated Ray cluster of three nodes with a CPU each; does nothing unless it is wanted."""

    def __init__(self, wanted: bool) -> None:
        self.options: list[str] = []
        if wanted:
            from ray.cluster_utils import Cluster as Simulated

            os.environ.update(RAY_worker_niceness="0")
            self.cluster = Simulated(initialize_head=True, head_node_args={"num_cpus": 1})
            self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
            self.options += ["--executor", "ray", "--ray-address", str(self.cluster.address)]

    def change(self) -> None:
        """Remove a node and add another."""
        if self.options:
            self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))


def soak(scratch: Path, points: int, workers: int, every: float, on_ray: bool) -> dict[str, float]:
    path, folder, cluster = scratch / "soak.yaml", scratch / "runs" / "soak", Cluster(on_ray)
    write_sweep(path, points)
    command = [sys.executable, "-m", "symbreak.sweeps", "sweep", str(path), "--output", str(scratch / "runs")]
    command += cluster.options or ["--workers", str(workers), "--gpus-per-run", "0"]
    begun, kills, driver_kills, seen = time.monotonic(), 0, 0, set()
    with (scratch / "log.txt").open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while driver.poll() is None:
            time.sleep(every * random.uniform(0.5, 1.5))
            seen |= {entry.name for entry in folder.glob("[0-9]*-*")}
            if runs := runs_of(folder):
                os.kill(random.choice(runs), signal.SIGKILL)
                kills += 1
            if driver_kills < 3 and len(seen) > points * (driver_kills + 1) / 4:
                driver.kill()
                driver.wait()
                driver_kills += 1
                if driver_kills == 2:
                    cluster.change()
                driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    seconds = time.monotonic() - begun
    assert driver.returncode == 0, (scratch / "log.txt").read_text()[-2000:]
    return check(folder, points, seen, scratch) | {
        "kills": kills,
        "driver_kills": driver_kills,
        "seconds": seconds,
    }


def check(folder: Path, points: int, seen: set[str], scratch: Path) -> dict[str, float]:
    """Check the records and the weights of a sweep that has ended."""
    notes = {path.parent: json.loads(path.read_text())["attempts"] for path in folder.glob("*/attempts.json")}
    ended_well = [run for run, tries in notes.items() if tries[-1]["status"] == "finished"]
    finished = Counter(json.loads((run / "point.json").read_text())["number"] for run in ended_well)
    assert seen <= {path.name for path in notes}, "a folder is gone"
    assert set(finished) == set(range(1, points + 1)), "points were lost"
    assert set(finished.values()) == {1}, "a point was finished twice"
    resumed = [run for run, tries in notes.items() if len(tries) > 1]
    for run in resumed[:10]:
        seed = json.loads((run / "point.json").read_text())["parameters"]["seed_everything"]
        alone = scratch / "alone" / str(seed)
        fit = ["fit", "--config", "sweeps/configs/digits.yaml", *SHORT, f"--seed_everything={seed}"]
        command = [sys.executable, "-m", "symbreak.sweeps", *fit, f"--run.dir={alone}"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        files = (place / "checkpoints" / "last.ckpt" for place in (run, alone))
        mine, theirs = (torch.load(file, weights_only=True)["state_dict"] for file in files)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), f"{run} differs from an uninterrupted run"
    attempts = sum(len(tries) for tries in notes.values())
    return {"points": points, "attempts": attempts, "resumed": len(resumed), "compared": len(resumed[:10])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=4.0, help="mean seconds between two kills")
    parser.add_argument("--ray", action="store_true", help="on a simulated cluster instead of local workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(soak(Path(scratch), options.points, options.workers, options.every, options.ray)))
