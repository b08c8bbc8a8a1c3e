import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "sweeps" / "slurm" / "sweep.sbatch"


@pytest.fixture
def cluster(tmp_path):
    """Stand-ins for symbreak and scontrol that note how they were called."""
    commands = {
        "symbreak": 'echo "symbreak $*" >> "$CALLS"; trap "echo ended >> $CALLS; exit 130" TERM; '
        "for _ in $(seq ${SECONDS_TO_RUN:-0}0); do sleep 0.1; done",
        "scontrol": 'echo "scontrol $*" >> "$CALLS"',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"CALLS": str(tmp_path / "calls"), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    return os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def calls(cluster):
    path = Path(cluster["CALLS"])
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.yaml", "--storage", "sqlite:///x"], "symbreak sweep a.yaml --storage sqlite:///x --workers 2"),
        (["me/project/abc"], "symbreak agents me/project/abc --workers 2"),
    ],
)
def test_each_job_works_on_the_sweep(cluster, arguments, expected):
    subprocess.run([SCRIPT, *arguments], env=cluster | {"SYMBREAK_OPTIONS": "--workers 2"}, check=True)
    assert calls(cluster) == [expected]


def test_job_at_its_time_limit_gives_its_points_back_and_is_queued_again(cluster):
    job = subprocess.Popen(["bash", SCRIPT, "a.yaml"], env=cluster | {"SECONDS_TO_RUN": "60"})
    end = time.monotonic() + 30
    while not calls(cluster):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0
    assert calls(cluster) == ["symbreak sweep a.yaml", "ended", "scontrol requeue 7_3"]
