import pytest
from tests.sweeps.report.example_runs import write_noise_law, write_sweep

from symbreak.sweeps.report.figures import choose
from symbreak.sweeps.report.table import load_runs


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
