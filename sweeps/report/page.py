"""The report as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from plotly.offline import get_plotlyjs

from symbreak.sweeps import pages
from symbreak.sweeps.report.figures import Figure
from symbreak.sweeps.report.grids import Grid
from symbreak.sweeps.report.provenance import Row
from symbreak.sweeps.report.sentences import Sentence
from symbreak.sweeps.run.record import Skipped


@dataclass(frozen=True)
class Page:
    """Content of the report.

    Attributes:
        title: Heading and title of the page.
        facts: One line about the number and state of runs.
        sentences: Sentences about the runs.
        arms: Table of arms.
        ledger: Table of sources of randomness.
        pairs: Table of pairs of sources that differ significantly.
        runs: Table of runs.
        figures: Figures in order, grouped by section.
        skipped: Folders left out of the report.
        provenance: Rows (item, value, number of runs).
        commands: Run and its command line.
        refresh: Seconds between reloads of the page, 0 for none.
    """

    title: str
    facts: str
    sentences: Sequence[Sentence] = ()
    arms: Grid = field(default_factory=lambda: Grid([], []))
    ledger: Grid = field(default_factory=lambda: Grid([], []))
    pairs: Grid = field(default_factory=lambda: Grid([], []))
    runs: Grid = field(default_factory=lambda: Grid([], []))
    figures: Sequence[Figure] = ()
    skipped: Sequence[Skipped] = ()
    provenance: Sequence[Row] = ()
    commands: Sequence[tuple[str, str]] = ()
    refresh: float = 0.0


def render(page: Page) -> str:
    """Return the whole page."""
    figures = [(name, list(group)) for name, group in groupby(page.figures, key=lambda figure: figure.section)]
    present = [
        ("Findings", page.sentences),
        ("Arms", page.arms.rows),
        ("Noise ledger", page.ledger.rows),
        *figures,
        ("Runs", page.runs.rows),
        ("Left out", page.skipped),
        ("Provenance", page.provenance or page.commands),
    ]
    return pages.render(
        "report.html",
        get_plotlyjs(),
        pages.script("report.js"),
        title=page.title,
        facts=page.facts,
        page=page,
        figures=figures,
        sections=[name for name, content in present if content],
    )
