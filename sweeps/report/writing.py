"""Read the runs of a report, compose its page, and write it."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io

from symbreak.sweeps.audit import records
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.pages import write
from symbreak.sweeps.report.figures import Figure, choose
from symbreak.sweeps.report.figures.audit import matrices
from symbreak.sweeps.report.figures.style import INK
from symbreak.sweeps.report.grids import by_arm, by_run
from symbreak.sweeps.report.ledger import ledger
from symbreak.sweeps.report.ledger_table import ledger_grid, ledger_sentences, pairs_grid
from symbreak.sweeps.report.page import Page, render
from symbreak.sweeps.report.provenance import Row, audit_provenance, commands, provenance
from symbreak.sweeps.report.sentences import sentences
from symbreak.sweeps.report.table import RunReader, RunTable, tabulate
from symbreak.sweeps.report.wandb_projects import PREFIX, read_project
from symbreak.sweeps.run.folder import DAMAGED

AXIS, ROW, SYMBOL, LETTER = 64, 20, 48, 8
"""Pixels of a picture: below the plot for the axis, and of the legend a row, a symbol, and at most a letter."""
MAX_NAMES = 5
"""Maximum number of run folders named in one line on the terminal."""


class ReportInputs:
    """Inputs of a report; unchanged folders are not read again."""

    def __init__(self, runs: list[str]) -> None:
        names = [str(run) for run in runs]
        if not names:
            raise UsageError("name at least one folder of runs")
        self.projects = [name.removeprefix(PREFIX).lstrip("/") for name in names if name.startswith(PREFIX)]
        paths = [Path(name) for name in names if not name.startswith(PREFIX)]
        self.audits = [path for path in paths if records.is_audit(path)]
        self.folders = [path for path in paths if path not in self.audits]
        self._reader = RunReader()

    def load(self) -> tuple[RunTable, list[Figure], list[Row]]:
        """Return the current runs, all figures, and the provenance of the audits."""
        online = [run for project in self.projects for run in read_project(project)]
        table = tabulate(self._reader.read(self.folders) + online)
        figures, rows = choose(table), []
        for path in self.audits:
            origin, cases = records.read(path)
            figures += matrices(cases)
            rows += audit_provenance(path.name, origin)
        return table, figures, rows


def compose(table: RunTable, figures: list[Figure], audits: Sequence[Row] = (), refresh: float = 0.0) -> Page:
    """Return the page of a table and its figures; `audits` is the provenance of the audits among them."""
    if table.runs.empty:
        return Page(
            _title(table), facts_of(table), figures=figures, skipped=table.skipped, provenance=audits, refresh=refresh
        )
    book = ledger(table)
    return Page(
        title=_title(table),
        facts=facts_of(table),
        sentences=[*sentences(table), *ledger_sentences(book)],
        arms=by_arm(table),
        ledger=ledger_grid(book),
        pairs=pairs_grid(book),
        runs=by_run(table),
        figures=figures,
        skipped=table.skipped,
        provenance=[*provenance(table), *audits],
        commands=commands(table),
        refresh=refresh,
    )


def _title(table: RunTable) -> str:
    folders = [Path(folder).parent.name for folder in table.runs["folder"]] or ["symmetry breaking"]
    return ", ".join(list(dict.fromkeys(folders))[:3])


def facts_of(table: RunTable) -> str:
    """Return one line about the number and state of runs."""
    counts = Counter(table.runs["status"])
    shown = f"{_count(len(table.runs), 'run')} in {_count(len(table.arms), 'arm')}"
    parts = [shown if len(table.runs) else "no runs to show"]
    parts += [f"{count} {status}" for status, count in counts.most_common()]
    parts += [f"{len(table.skipped)} left out"] if table.skipped else []
    return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def name_faults(table: RunTable) -> None:
    """Print one line on standard error per reason for leaving out run folders, and one for damaged runs."""
    reasons: dict[str, list[str]] = {}
    for item in table.skipped:
        reasons.setdefault(item.reason, []).append(item.name)
    for reason, names in reasons.items():
        print(f"left out of the report: {_first(names)} ({reason})", file=sys.stderr)
    if damaged := list(table.runs["run"][table.runs["status"] == DAMAGED]):
        print(f"damaged: {_first(damaged)} (finished, but summary.json is lost)", file=sys.stderr)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}"


def write_page(output: Path, page: Page) -> None:
    """Write a page as HTML."""
    write(output, render(page))


def watch(inputs: ReportInputs, output: Path, interval: float) -> None:
    """Read the runs and rewrite the page every ``interval`` seconds, until Ctrl-C."""
    print(f"{output} follows the runs; Ctrl-C ends it", flush=True)
    try:
        while True:
            write_page(output, compose(*inputs.load(), interval))
            time.sleep(interval)
    except KeyboardInterrupt:
        print(flush=True)


def save_pictures(figures: list[Figure], folder: Path) -> list[Path]:
    """Write each figure as a PNG on white, with its legend below the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{figure.key}.png" for figure in figures]
    widths: list[int | None] = [figure.width for figure in figures]
    plots = [_picture(figure) for figure in figures]
    heights: list[int | None] = [plot.to_plotly_json()["layout"]["height"] for plot in plots]
    files: list[str | Path] = [*paths]
    plotly.io.write_images(plots, files, width=widths, height=heights, scale=2)  # in one browser
    return paths


def _picture(figure: Figure) -> go.Figure:
    top = 50 + figure.plot.to_plotly_json()["layout"]["margin"]["t"]
    plot = go.Figure(figure.plot).update_layout(paper_bgcolor="white", font_color=INK, margin_t=top)
    plot.update_layout(title={"text": figure.title, "x": 0.02, "y": 0.98, "yanchor": "top"})
    plot.update_xaxes(gridcolor="#e8ebef").update_yaxes(gridcolor="#e8ebef")
    if rows := _legend_rows(plot, figure.width - AXIS):
        below = {"yref": "container", "y": 0, "yanchor": "bottom", "maxheight": 1, "tracegroupgap": 0}
        plot.update_layout(height=figure.height + rows * ROW, margin_b=AXIS + rows * ROW, legend=below)
    return plot


def _legend_rows(plot: go.Figure, width: int) -> int:
    """Return how many rows of a width in pixels hold the legend's entries, by their lengths; 0 without a legend."""
    content: dict[str, Any] = plot.to_plotly_json()
    traces = [each for each in content["data"] if each["type"] == "scatter" and each.get("showlegend") is not False]
    if content["layout"].get("showlegend") is False or len(traces) < 2:
        return 0
    rows, free = 0, 0
    for name in {each.get("legendgroup", i): str(each.get("name")) for i, each in enumerate(traces)}.values():
        needed = SYMBOL + LETTER * len(name)
        rows, free = (rows, free - needed) if needed <= free else (rows + 1, width - needed)
    return rows
