"""Find the runs to compare."""

from pathlib import Path

from symbreak.sweeps.compare.comparison import Member
from symbreak.sweeps.report.table import load_runs


def read_members(paths: list[Path]) -> list[Member]:
    """Return the runs at or below the given folders, with their arms.

    Raises:
        UsageError: If a path is not a folder.
    """
    table = load_runs(paths)
    columns = (table.runs[name] for name in ("run", "arm", "folder", "seed"))
    return [Member(str(run), str(arm), Path(folder), seed) for run, arm, folder, seed in zip(*columns, strict=True)]
