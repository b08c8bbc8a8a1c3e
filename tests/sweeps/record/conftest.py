from tests.sweeps.report.conftest import real_folder, real_runs

__all__ = ["real_folder", "real_runs"]
