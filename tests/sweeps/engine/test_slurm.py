import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "sweeps" / "slurm"


@pytest.fixture
def cluster(tmp_path):
    """Stand-ins for the commands of a cluster that note how they were called."""
    commands = {
        "symbreak": 'echo "symbreak $*" >> "$CALLS"; trap "echo ended >> $CALLS; exit 143" TERM; '
        "for _ in $(seq ${SECONDS_TO_RUN:-0}0); do sleep 0.1; done",
        "scontrol": 'echo "scontrol $*" >> "$CALLS"; [ "$1" != show ] || printf "a1\\na2\\na3\\n"',
        "srun": 'echo "srun $*" >> "$CALLS"',
        "ray": 'echo "ray $*" >> "$CALLS"',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {
        "CALLS": str(tmp_path / "calls"),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_JOB_ID": "9",
        "SLURM_JOB_NODELIST": "a[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "4",
    }
    return os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def calls(cluster):
    path = Path(cluster["CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def test_each_job_of_an_array_joins_the_sweep(cluster):
    command = [SCRIPTS / "agents.sbatch", "me/project/abc"]
    subprocess.run(command, env=cluster | {"SYMBREAK_OPTIONS": "--workers 2"}, check=True)
    assert calls(cluster) == ["symbreak agents me/project/abc --workers 2"]


def test_one_driver_uses_a_ray_cluster_on_all_nodes(cluster):
    subprocess.run([SCRIPTS / "ray.sbatch", "cifar10", "--output", "/shared"], env=cluster, check=True)
    time.sleep(0.5)  # the nodes join in the background
    seen = calls(cluster)
    start = "ray start --head --port=6379 --num-cpus 8 --num-gpus 4 --block"
    assert f"srun --nodes=1 --ntasks=1 --nodelist=a1 {start}" in seen
    join = "ray start --address=a1:6379 --num-cpus 8 --num-gpus 4 --block"
    assert f"srun --nodes=2 --ntasks=2 --exclude=a1 {join}" in seen
    assert "symbreak sweep cifar10 --output /shared --executor ray --ray-address a1:6379" in seen


@pytest.mark.parametrize(("script", "job"), [("agents.sbatch", "7_3"), ("ray.sbatch", "9")])
def test_job_at_its_time_limit_stops_its_runs_and_is_queued_again(cluster, script, job):
    process = subprocess.Popen(["bash", SCRIPTS / script, "a"], env=cluster | {"SECONDS_TO_RUN": "60"})
    end = time.monotonic() + 30
    while not any(call.startswith("symbreak") for call in calls(cluster)):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert calls(cluster)[-2:] == ["ended", f"scontrol requeue {job}"]
