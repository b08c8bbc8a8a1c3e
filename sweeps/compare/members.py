"""Find the runs to compare, and leave out those that cannot be read."""

from collections.abc import Sequence
from pathlib import Path

from symbreak.sweeps.compare.comparison import Member, PairResult, compare_runs
from symbreak.sweeps.compare.predictions import read_predictions
from symbreak.sweeps.compare.weights import UnreadableFileError, final_file
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.report.table import load_runs
from symbreak.sweeps.run.record import Skipped


def read_members(paths: list[Path]) -> list[Member]:
    """Return the runs at or below the given folders, with their arms.

    Raises:
        UsageError: If a path is not a folder.
    """
    table = load_runs(paths)
    columns = (table.runs[name] for name in ("run", "arm", "folder", "seed"))
    return [Member(str(run), str(arm), Path(folder), seed) for run, arm, folder, seed in zip(*columns, strict=True)]


def compare_members(members: Sequence[Member], examined: int, images: int) -> tuple[list[PairResult], list[Skipped]]:
    """Compare runs as `compare_runs` does, without those of which a file of weights cannot be read.

    Returns:
        The pairs, and the runs left out with the reason.

    Raises:
        UsageError: If there are fewer than two runs that can be read, or none has kept weights or predictions.
    """
    skipped: list[Skipped] = []
    while True:
        _check(members, skipped)
        try:
            return compare_runs(members, examined, images), skipped
        except UnreadableFileError as error:
            (bad,) = (member for member in members if member.folder in error.path.parents)
            members = [member for member in members if member is not bad]
            skipped.append(Skipped(bad.name, str(bad.folder), str(error)))


def _check(members: Sequence[Member], skipped: Sequence[Skipped]) -> None:
    if len(members) < 2:
        left_out = "".join(f"; {each.name} is left out: {each.reason}" for each in skipped)
        raise UsageError(f"{len(members)} run(s) {'left' if skipped else 'found'}: at least two are compared{left_out}")
    if all(final_file(m.folder) is None and read_predictions(m.folder) is None for m in members):
        raise UsageError("no run has kept weights or test predictions: nothing can be compared")
