"""`symbreak compare`: differences between runs in weights, predictions, features and loss barriers."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symbreak.sweeps import pages
from symbreak.sweeps.compare.comparison import Member, PairResult, check_members, compare_runs
from symbreak.sweeps.compare.page import write_page
from symbreak.sweeps.compare.table import rows
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.report.table import load_runs

WIDTH = 200
"""Width of the table in characters if the output is not a terminal."""


def compare(
    runs: list[str],
    output: Path = Path("compare.html"),
    json: Path | None = None,
    examined: int = 4,
    images: int = 128,
) -> Path:
    """Compare runs by weights, predictions, features and the loss between them.

    Weights need a checkpoint or snapshots (--snapshots.per_doubling 2), growth needs snapshots, and churn needs the
    test logits that every run keeps.

    Examples:
        symbreak compare runs/a runs/b
        symbreak compare runs/noise_ledger --examined 12 --json pairs.json

    Args:
        runs: Folders of runs, or of sweeps.
        output: HTML page to write.
        json: JSON file that also receives every pair's values.
        examined: Number of pairs to match channel by channel, to interpolate and to compare by features; half of them
            within arms, spread evenly. Each costs a few seconds, more for larger networks and images.
        images: Test images for features, loss barriers and first differences.

    Returns:
        Path of the page.

    Raises:
        UsageError: If fewer than two runs are found, or a number is out of range.
    """
    if examined < 0 or images < 4:
        raise UsageError(f"examined={examined}, images={images}: expected 0 or more, and at least 4")
    members = read_members([Path(run) for run in runs])
    check_members(members)
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    with console.status(f"Comparing {len(members)} runs"):
        results = compare_runs(members, examined, images)
    console.print(_table(results))
    if json is not None:
        write_pairs(json, results)
    title = ", ".join(dict.fromkeys(member.folder.parent.name for member in members))
    write_page(output, f"Comparison of {title}", results, len(members))
    return output


def read_members(paths: list[Path]) -> list[Member]:
    """Return the runs at or below the given folders, with their arms.

    Raises:
        UsageError: If a path is not a folder.
    """
    table = load_runs(paths)
    columns = (table.runs[name] for name in ("run", "arm", "folder", "seed"))
    return [Member(str(run), str(arm), Path(folder), seed) for run, arm, folder, seed in zip(*columns, strict=True)]


def write_pairs(path: Path, results: list[PairResult]) -> None:
    """Write the values of every pair as JSON."""
    pages.write(path, dumps([result.as_dict() for result in results], indent=1) + "\n")


def _table(results: list[PairResult]) -> Table:
    columns, body = rows(results)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(columns):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in body:
        table.add_row(*map(escape, row))
    return table
