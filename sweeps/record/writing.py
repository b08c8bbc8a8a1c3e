"""The files of a record, within a limit of size."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.record import readme
from symbreak.sweeps.record.contents import (
    DIGITS,
    MAX_POINTS,
    equivalents_frame,
    history_frame,
    provenance_of,
    runs_frame,
)
from symbreak.sweeps.record.pictures import draw
from symbreak.sweeps.report.figures import choose
from symbreak.sweeps.report.grids import NEVER, UNKNOWN, Grid, by_arm
from symbreak.sweeps.report.ledger import ledger
from symbreak.sweeps.report.ledger_table import ledger_grid, ledger_sentences, pairs_grid
from symbreak.sweeps.report.sentences import sentences
from symbreak.sweeps.report.table import RunTable
from symbreak.sweeps.report.writing import facts_of

LIMIT = 1_000_000
"""Maximum size of a record in bytes."""
MARGIN = 2000
"""Bytes kept free for the list of files in the README."""
HISTORY_SHARE = 0.3
LEAST_POINTS = 8


def write(folder: Path, name: str, table: RunTable, command: str, remarks: str, wanted: Collection[str] = ()) -> None:
    """Write all files of a record: tables first, then as many figures as fit, those that are wanted before others.

    Raises:
        UsageError: If the tables alone exceed the limit.
    """
    entries = ledger(table)
    grids = {"Arms": by_arm(table), "Noise ledger": ledger_grid(entries)}
    grids["Sources that differ significantly"] = pairs_grid(entries)
    runs = runs_frame(table)
    provenance = provenance_of(table, command, runs["seconds"])
    frames = {readme.RUNS: runs, readme.EQUIVALENTS: equivalents_frame(table)}
    frames[readme.LEDGER] = _frame(grids["Noise ledger"])
    for file, frame in frames.items():
        if len(frame):
            frame.to_csv(folder / file, index=False, float_format=DIGITS)
    (folder / readme.PROVENANCE).write_text(json.dumps(provenance, indent=1, default=str) + "\n", encoding="utf-8")
    if remarks:
        (folder / readme.FINDINGS).write_text(remarks, encoding="utf-8")
    found = [*sentences(table), *ledger_sentences(entries)]
    text = readme.RecordText(name, facts_of(table), found, grids, provenance, remarks)
    figures = choose(table)
    reserve = len(readme.render(text, figures).encode()) + MARGIN
    if _size(folder) + reserve > LIMIT:
        raise UsageError(f"the tables of {len(table.runs)} runs exceed {LIMIT / 1e6:g} MB; record fewer runs at a time")
    _write_history(folder, table, LIMIT - _size(folder) - reserve)
    ordered = sorted(figures, key=lambda figure: figure.key not in wanted)
    drawn = {figure.key for figure in draw(ordered, folder, LIMIT - _size(folder) - reserve)}
    shown, left_out = ([figure for figure in figures if (figure.key in drawn) is kept] for kept in (True, False))
    content = readme.render(text, shown, left_out)
    (folder / readme.README).write_text(content + readme.files_section(folder), encoding="utf-8")


def _write_history(folder: Path, table: RunTable, room: int) -> None:
    """Write the history, thinned until it takes no more than its share of the room."""
    points, path = MAX_POINTS, folder / readme.HISTORY
    while True:
        frame = history_frame(table, points)
        frame.to_csv(path, index=False, float_format=DIGITS, compression={"method": "gzip", "mtime": 0})
        if path.stat().st_size <= HISTORY_SHARE * room:
            return
        if points <= LEAST_POINTS:
            path.unlink()
            print(f"{readme.HISTORY} is left out: even {points} steps a key exceed the limit", file=sys.stderr)
            return
        points //= 2


def _frame(grid: Grid) -> pd.DataFrame:
    """Return a grid as numbers where it has them."""
    rows = [[cell.value if grid.number_columns[i] else cell.text for i, cell in enumerate(row)] for row in grid.rows]
    unknown = [float("inf"), NEVER, "", UNKNOWN]
    return pd.DataFrame(rows, columns=pd.Index(grid.columns)).replace(unknown, float("nan"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
