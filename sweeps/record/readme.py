"""The README of one record: question, findings, arms, figures and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symbreak.sweeps.paths import shipped_sweep
from symbreak.sweeps.record.markdown import escape, table_of
from symbreak.sweeps.report.figures.style import Figure
from symbreak.sweeps.report.grids import Grid
from symbreak.sweeps.report.sentences import Sentence

RUNS, HISTORY, EQUIVALENTS, LEDGER = "runs.csv", "history.csv.gz", "equivalents.csv", "ledger.csv"
PROVENANCE, FINDINGS, README = "provenance.json", "findings.md", "README.md"
MEANING = {
    RUNS: "one row per run: arm, what varies, outcome, seconds",
    HISTORY: "the logged values of the whole network, thinned: run, key, step, value",
    EQUIVALENTS: "the equivalent initial noise of each source; scale 0: below the curve; step inf: half did not escape",
    LEDGER: "the noise ledger, one row per source",
    PROVENANCE: "command, code, versions, hardware, common settings, times",
}


def question_of(name: str) -> str:
    """Return the comment at the head of the sweep file of this name that comes with the project; empty without one."""
    path = shipped_sweep(name)
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(line.removeprefix("#").strip() for line in head)


@dataclass(frozen=True)
class RecordText:
    """What the README of a record says, beside its figures.

    Attributes:
        name: Name of the record, which is that of its sweep.
        facts: One line about the number and state of runs.
        found: Sentences about the runs.
        grids: Tables by title.
        provenance: Content of provenance.json.
        remarks: Text of the author, in Markdown.
    """

    name: str
    facts: str
    found: Sequence[Sentence]
    grids: Mapping[str, Grid]
    provenance: Mapping[str, Any]
    remarks: str = ""


def render(text: RecordText, figures: Sequence[Figure], left_out: Sequence[Figure] = ()) -> str:
    """Return the Markdown of a record, with the figures whose pictures lie beside, and the titles of the others."""
    parts = [f"# {text.name}\n\n{text.facts}.\n"]
    if question := question_of(text.name):
        parts.append("".join(f"> {escape(line)}\n" for line in question.splitlines()))
    if text.found:
        lines = (f"- **{escape(each.subject)}** {escape(each.text)}\n" for each in text.found)
        parts.append("## Findings\n\n" + "".join(lines))
    if text.remarks.strip():
        parts.append(f"## Remarks\n\n{text.remarks.strip()}\n")
    for title, grid in text.grids.items():
        rows = [[escape(cell.text) for cell in row] for row in grid.rows]
        parts += [f"## {title}\n\n" + table_of([escape(each) for each in grid.columns], rows)] if rows else []
    if figures or left_out:
        parts.append("## Figures\n")
        parts += [f"![{escape(each.title)}]({each.key}.png)\n\n{escape(each.caption)}\n" for each in figures]
    if left_out:
        titles = escape(", ".join(figure.title for figure in left_out))
        parts.append(f"Without a picture here, drawn by `symbreak report`: {titles}.\n")
    parts.append(_provenance(text.provenance))
    return "\n".join(parts)


def _provenance(content: Mapping[str, Any]) -> str:
    rows = [
        [escape(item), escape(value), str(runs)]
        for item, values in content["items"].items()
        for value, runs in values.items()
    ]
    seconds = content["seconds_of_all_runs"]
    lines = [
        f"- command: `{content['command']}`",
        f"- from {content['first_started']} to {content['last_ended']}",
        f"- time of all runs together: {seconds / 60:.1f} minutes" if seconds is not None else "",
    ]
    return "## Provenance\n\n" + "\n".join(filter(None, lines)) + "\n\n" + table_of(["item", "value", "runs"], rows)


def files_section(folder: Path) -> str:
    """Return a list of the tables in the folder."""
    names = [name for name in MEANING if (folder / name).is_file()]
    return "\n## Files\n\n" + "".join(f"- [`{name}`]({name}): {MEANING[name]}\n" for name in names)
