"""`symbreak compare`: differences between runs in weights, predictions, features and loss barriers."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path

from symbreak.sweeps import pages
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output

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
    test logits that every run keeps. A run with a file of weights that cannot be read is left out.

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
        UsageError: If fewer than two runs are found and can be read, a number is out of range, or a file cannot be
            written.
    """
    if examined < 0 or images < 4:
        raise UsageError(f"examined={examined}, images={images}: expected 0 or more, and at least 4")
    check_output(output, json)
    from rich.console import Console

    from symbreak.sweeps.compare.members import compare_members, read_members
    from symbreak.sweeps.compare.page import write_page
    from symbreak.sweeps.compare.table import terminal_table

    members = read_members([Path(run) for run in runs])
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    with console.status(f"Comparing {len(members)} runs"):
        results, skipped = compare_members(members, examined, images)
    for each in skipped:
        print(f"left out of the comparison: {each.name} ({each.reason})", file=sys.stderr)
    console.print(terminal_table(results))
    if json is not None:
        pages.write(json, dumps([result.as_dict() for result in results], indent=1) + "\n")
    title = ", ".join(dict.fromkeys(member.folder.parent.name for member in members))
    write_page(output, f"Comparison of {title}", results, len(members) - len(skipped), skipped)
    return output
