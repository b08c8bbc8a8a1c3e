import os
import subprocess
import sys

import pytest
from filelock import FileLock
from tests.sweeps.report.example_runs import write_noise_law, write_sweep

from symbreak.sweeps.report.figures import choose
from symbreak.sweeps.report.table import load_runs


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory):
    """Folder of runs that `symbreak fit` made.

    All test processes of a session share one; tests that change a run work on a copy.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real_runs"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            command = [sys.executable, "-m", "tests.sweeps.report.real_runs", str(root)]
            made = subprocess.run(command, capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
    return root


@pytest.fixture(scope="session")
def real_runs(real_folder):
    """Runs of one sweep: finished, preempted, killed, failed, resumed, over two ranks."""
    return real_folder / "sweep"


@pytest.fixture(scope="session")
def real_table(real_runs):
    return load_runs([real_runs])


@pytest.fixture(scope="session")
def copies_table(real_folder):
    """Two runs in which hidden neurons were copied after step 4, with even and uneven outgoing weights."""
    return load_runs([real_folder / "copies"])


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "quickstart", seeds=2)


@pytest.fixture(scope="session")
def law_folder(tmp_path_factory):
    return write_noise_law(tmp_path_factory.mktemp("runs") / "noise_law", seeds=2)


@pytest.fixture(scope="session")
def sweep_table(sweep_folder):
    return load_runs([sweep_folder])


@pytest.fixture(scope="session")
def sweep_figures(sweep_table):
    return choose(sweep_table)


@pytest.fixture(scope="session")
def law_table(law_folder):
    return load_runs([law_folder])
