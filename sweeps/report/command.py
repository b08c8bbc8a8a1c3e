"""Runs -> report.html, and the table and pictures that go with it."""

import importlib.util
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go

from symbreak.sweeps.audit.records import audit_figures, audit_provenance, is_audit
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.pages import write
from symbreak.sweeps.report.figures import Figure, choose
from symbreak.sweeps.report.figures.style import INK
from symbreak.sweeps.report.findings import findings
from symbreak.sweeps.report.grids import by_arm, by_run
from symbreak.sweeps.report.page import Page, render
from symbreak.sweeps.report.provenance import commands, provenance
from symbreak.sweeps.report.table import RunReader, RunTable, save, tabulate
from symbreak.sweeps.report.wandb_projects import PREFIX, read_project


def report(
    runs: list[str],
    output: Path = Path("report.html"),
    csv: Path | None = None,
    parquet: Path | None = None,
    png: Path | None = None,
    watch: bool = False,
    interval: float = 10.0,
) -> Path:
    """Writes one self-contained HTML page that shows what runs did.

    Args:
        runs: Folders of runs (a sweep, several, or a single run), JSON files of `symbreak audit`, or
            wandb:ENTITY/PROJECT for runs on a W&B server.
        output: The page.
        csv: Also write the table of runs here, and their history beside it.
        parquet: The same as Parquet (needs pyarrow).
        png: Also write each figure as a picture into this folder (needs kaleido).
        watch: Rewrite the page as runs progress, until interrupted; the page reloads itself.
        interval: Seconds between two looks at the runs.

    Returns:
        Path of the page.

    Raises:
        UsageError: If nothing is found, an argument is of no known kind, or an optional package is missing.
    """
    exports = [(csv, ".csv"), (parquet, ".parquet")]
    _check(exports, png, interval)
    sources, output = Sources(runs), Path(output)
    if watch:
        _watch(sources, output, interval)
    table = sources.load()
    if table.runs.empty and not table.skipped and not sources.audits:
        raise UsageError(f"no runs in {', '.join(map(str, runs))}")
    figures = choose(table) + sources.audit_figures()
    write(output, render(compose(table, figures, sources.audit_provenance())))
    for path, _ in exports:
        if path is not None:
            save(table, Path(path))
    if png is not None:
        save_pictures(figures, Path(png))
    return output


def _check(exports: list[tuple[Path | None, str]], png: Path | None, interval: float) -> None:
    """What is wrong with the options is said before any work is done."""
    if interval <= 0:
        raise UsageError(f"interval must be positive, got {interval:g} s")
    for path, suffix in exports:
        if path is not None and Path(path).suffix != suffix:
            raise UsageError(f"{path}: expected a name that ends in {suffix}")
    if png is not None and importlib.util.find_spec("kaleido") is None:
        raise UsageError("pictures need kaleido: pip install kaleido")


class Sources:
    """Where the runs come from; folders that have not changed are not read again."""

    def __init__(self, runs: list[str]) -> None:
        names = [str(run) for run in runs]
        if not names:
            raise UsageError("name at least one folder of runs")
        self.projects = [name.removeprefix(PREFIX).lstrip("/") for name in names if name.startswith(PREFIX)]
        paths = [Path(name) for name in names if not name.startswith(PREFIX)]
        self.audits = [path for path in paths if is_audit(path)]
        self.folders = [path for path in paths if path not in self.audits]
        self._reader = RunReader()

    def load(self) -> RunTable:
        """All runs as they are now."""
        online = [run for project in self.projects for run in read_project(project)]
        return tabulate(self._reader.read(self.folders) + online)

    def audit_figures(self) -> list[Figure]:
        """The matrices of all audit files."""
        return [figure for path in self.audits for figure in audit_figures(path)]

    def audit_provenance(self) -> list[tuple[str, str, int]]:
        """Where the audits were made."""
        return [row for path in self.audits for row in audit_provenance(path)]


def compose(
    table: RunTable, figures: list[Figure], audits: list[tuple[str, str, int]] | None = None, refresh: float = 0.0
) -> Page:
    """The page of a table and its figures; `audits` is the provenance of the audits among them."""
    if table.runs.empty:
        page = Page(_title(table), _facts(table), figures=figures, skipped=table.skipped, refresh=refresh)
        return replace(page, provenance=audits or [])
    return Page(
        title=_title(table),
        facts=_facts(table),
        findings=findings(table),
        arms=by_arm(table),
        runs=by_run(table),
        figures=figures,
        skipped=table.skipped,
        provenance=provenance(table) + (audits or []),
        commands=commands(table),
        refresh=refresh,
    )


def _title(table: RunTable) -> str:
    folders = [Path(folder).parent.name for folder in table.runs["folder"]] or ["symmetry breaking"]
    return ", ".join(list(dict.fromkeys(folders))[:3])


def _facts(table: RunTable) -> str:
    counts = Counter(table.runs["status"])
    shown = f"{_count(len(table.runs), 'run')} in {_count(len(table.arms), 'arm')}"
    parts = [shown if len(table.runs) else "no runs to show"]
    parts += [f"{count} {status}" for status, count in counts.most_common()]
    parts += [f"{len(table.skipped)} left out"] if table.skipped else []
    return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _watch(sources: Sources, output: Path, interval: float) -> None:
    """Rewrites the page whenever a look at the runs shows something new, until Ctrl-C."""
    print(f"{output} follows the runs; Ctrl-C ends it", flush=True)
    try:
        while True:
            table = sources.load()
            figures = choose(table) + sources.audit_figures()
            write(output, render(compose(table, figures, sources.audit_provenance(), interval)))
            time.sleep(interval)
    except KeyboardInterrupt:
        print(flush=True)


def save_pictures(figures: list[Figure], folder: Path) -> list[Path]:
    """Writes each figure as a PNG on white, with its legend."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        path = folder / f"{figure.key}.png"
        top = 50 + figure.plot.to_plotly_json()["layout"]["margin"]["t"]
        plot = go.Figure(figure.plot).update_layout(paper_bgcolor="white", font_color=INK, margin_t=top)
        plot.update_layout(title={"text": figure.title, "x": 0.02, "y": 0.98, "yanchor": "top"})
        plot.update_xaxes(gridcolor="#e8ebef").update_yaxes(gridcolor="#e8ebef")
        plot.write_image(path, width=1000 if figure.wide else 720, scale=2)
        paths.append(path)
    return paths
