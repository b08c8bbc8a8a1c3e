import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.sweeps.engine.wandb_server import WandbServer

from symbreak.sweeps.engine import agents, machine
from symbreak.sweeps.errors import UsageError

STUB = Path(__file__).with_name("stub.py")
POINTS = [{"x": 1, "flag": False}, {"x": 2, "flag": False}, {"x": 3, "flag": True}]


@pytest.fixture
def server():
    with WandbServer(POINTS) as server:
        yield server
        server.shutdown()


def environment(server, tmp_path):
    return os.environ | {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_CONFIG_DIR": str(tmp_path / "wandb-config"),
        "STUB_LOG": str(tmp_path / "started.txt"),
        "SLURM_NTASKS": "2",
    }


def write_sweep(tmp_path, command):
    path = tmp_path / "online.yaml"
    content = {"method": "grid", "program": "stub", "command": command, "parameters": {"x": {"values": [1, 2, 3]}}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_online_sweep_runs_every_point_once_through_wandb_agents(server, tmp_path):
    command = ["${env}", "bash", "-c", "echo $0 $1 ${SLURM_NTASKS-none} $OMP_NUM_THREADS >> $STUB_LOG", "${args}"]
    path = write_sweep(tmp_path, command)
    program = (
        "from pathlib import Path; from symbreak.sweeps.engine.command import sweep\n"
        f"sweep(Path({str(path)!r}), 2, 0, online=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(server, tmp_path), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "symbreak agents me/project/swp" in done.stdout
    registered = yaml.safe_load(server.config)
    assert registered == yaml.safe_load(path.read_text()) | {"name": "online"}
    assert server.agents == 2
    threads = max(1, machine.cores() // 2)
    started = sorted((tmp_path / "started.txt").read_text().splitlines())
    assert started == [f"--x={point['x']} --flag={point['flag']} none {threads}" for point in POINTS]


def test_signal_reaches_the_runs_of_every_agent(server, tmp_path):
    server.config = yaml.safe_dump(
        {
            "command": [
                "bash",
                "-c",
                "trap 'echo stopped >> $STUB_LOG; exit' TERM; echo started >> $STUB_LOG; while :; do sleep 0.1; done",
            ]
        }
    )
    program = "from symbreak.sweeps.engine.agents import agents; agents('me/project/swp', 2, 0)"
    process = subprocess.Popen([sys.executable, "-c", program], env=environment(server, tmp_path), cwd=tmp_path)
    log, end = tmp_path / "started.txt", time.monotonic() + 60
    while not log.exists() or log.read_text().count("started") < 2:
        assert time.monotonic() < end, "the agents did not start their runs"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert log.read_text().count("stopped") == 2


def test_unreachable_server_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UsageError, match=r"^--online: W&B did not take the sweep: ") as error:
        agents.register({"method": "grid", "parameters": {"x": {"value": 1}}}, "name")
    assert "\n" not in str(error.value)


def test_gpus_are_shared_out_in_groups():
    def visible(*arguments):
        return [slot.get("CUDA_VISIBLE_DEVICES") for slot in machine.make_slots(*arguments)]

    gpus = ["0", "1", "2", "3"]
    assert visible(None, None, gpus, None) == ["0", "1", "2", "3"]
    assert visible(None, 2, gpus, None) == ["0,1", "2,3"]
    assert visible(None, 3, gpus, None) == ["0,1,2"]
    assert visible(6, 1, gpus, None) == ["0", "1", "2", "3", "0", "1"]
    assert visible(None, None, gpus, 2) == ["0", "1"]
    assert visible(3, 0, gpus, None) == ["", "", ""]
    assert visible(None, None, [], 100) == [None] * min(machine.cores(), 100)
    assert visible(8, None, [], 3) == [None] * 3
    with pytest.raises(UsageError, match="--gpus-per-run: 5 are asked for, 4 can be seen"):
        visible(None, 5, gpus, None)
