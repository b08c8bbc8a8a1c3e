import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

STUB = Path(__file__).with_name("stub.py")


class StubSweep:
    """A sweep whose runs are `stub.py`."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "stubs.yaml"
        self.runs = folder / "runs" / "stubs"

    def write(self, parameters, **content):
        content = {
            "name": "stubs",
            "method": "grid",
            "command": [sys.executable, "-S", str(STUB), "${args}"],
            "parameters": parameters,
        } | content
        self.path.write_text(yaml.safe_dump(content, sort_keys=False))
        return self

    def run(self, **options):
        from symbreak.sweeps.engine.command import sweep

        return sweep(self.path, **{"workers": 2, "gpus_per_run": 0, "output": self.folder / "runs", **options})

    def in_background(self, **options):
        options = {"workers": 1, "gpus_per_run": 0} | options
        program = (
            "import signal, sys; from pathlib import Path; from symbreak.sweeps.engine.command import sweep\n"
            # A shell ignores SIGINT on behalf of what it runs in the background, this test included.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"sys.exit(sweep(Path({str(self.path)!r}), output=Path({str(self.folder / 'runs')!r}), **{options!r}))"
        )
        command = [sys.executable, "-c", program]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def folders(self):
        return sorted(folder.name for folder in self.runs.iterdir() if folder.is_dir())

    def starts(self):
        log = self.folder / "started.txt"
        return sorted(log.read_text().split()) if log.exists() else []

    def wait_for_starts(self, count):
        end = time.monotonic() + 60
        while len(self.starts()) < count:
            assert time.monotonic() < end, "the sweep did not start its runs"
            time.sleep(0.02)


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "started.txt"))
    return StubSweep(tmp_path)
