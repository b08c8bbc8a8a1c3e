"""An audit as a table on the terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from symbreak.sweeps import pages
from symbreak.sweeps.audit.cases import Finding
from symbreak.sweeps.audit.operations import OPERATIONS
from symbreak.sweeps.audit.reduction import REDUCTIONS

LEGEND = (
    "yes: the same bits again, and identical channels stay identical, in every case. "
    "≠ 2/8 (3): identical channels diverged in 2 of 8 cases, into at most 3 groups. "
    "~ 2/8: in 2 of 8 cases another run gives other bits. x3: over 3 ranks. -: unsupported here. "
    "refused: the mode allows no such operation."
)
_STYLES = {"good": "green", "warning": "yellow", "bad": "red", "none": "dim"}


@dataclass(frozen=True)
class Summary:
    """The finding for an operation in one precision: a short text and its severity (a key of the styles)."""

    text: str
    level: str


def summarise(findings: Sequence[Finding]) -> list[tuple[str, str, dict[str, Summary]]]:
    """Condense findings to rows of (operation, modes, cell per precision); modes that agree share a row."""
    precisions = list(dict.fromkeys(finding.precision for finding in findings))
    rows = []
    for label in dict.fromkeys(map(_label, findings)):
        own = [finding for finding in findings if _label(finding) == label]
        by_cells: dict[tuple[Summary, ...], list[str]] = {}
        for mode in dict.fromkeys(finding.mode for finding in own if finding.mode != "any") or ["any"]:
            seen = [finding for finding in own if finding.mode in (mode, "any")]
            cells = tuple(_cell([f for f in seen if f.precision == precision]) for precision in precisions)
            by_cells.setdefault(cells, []).append(mode)
        for cells, modes in by_cells.items():
            rows.append(
                (label, ", ".join(modes) if len(by_cells) > 1 else "all", dict(zip(precisions, cells, strict=True)))
            )
    return rows


def _label(finding: Finding) -> str:
    return finding.operation + (f" x{finding.world_size}" if finding.world_size > 1 else "")


def _cell(findings: Sequence[Finding]) -> Summary:
    judged = [finding for finding in findings if finding.status == "ok"]
    if not judged:
        return Summary("refused" if any(f.status == "refused" for f in findings) else "-", "none")
    varying = sum(not finding.repeatable for finding in judged)
    asymmetric = sum(not finding.symmetric for finding in judged)
    words = []
    if varying:
        words.append(f"~ {varying}/{len(judged)}")
    if asymmetric:
        distinct = max(finding.distinct or 0 for finding in judged)
        words.append(f"≠ {asymmetric}/{len(judged)} ({distinct})")
    return Summary(" ".join(words) or "yes", "bad" if varying else "warning" if asymmetric else "good")


def summary_table(findings: Sequence[Finding]) -> Table:
    """Return the summary for the terminal, with a column of modes if their results differ."""
    rows = summarise(findings)
    with_modes = any(modes != "all" for _, modes, _ in rows)
    table = Table(title="Repeatable and symmetric?", box=None, padding=(0, 1, 0, 0))
    for heading in ("operation", *(["mode"] if with_modes else []), *(rows[0][2] if rows else ())):
        table.add_column(heading, overflow="fold")
    for operation, modes, cells in rows:
        styled = [f"[{_STYLES[cell.level]}]{cell.text}[/]" for cell in cells.values()]
        table.add_row(operation, *([modes] if with_modes else []), *styled)
    return table


def write_html(path: Path, provenance: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Write the page: summary, remarkable cases, definitions, provenance, all cases."""
    rows = summarise(findings)
    known = {name: operation.symmetry for name, operation in OPERATIONS.items()} | REDUCTIONS
    cases = [["" if value is None else value for value in asdict(finding).values()] for finding in findings]
    text = pages.render(
        "audit.html",
        title="Which operation breaks symmetry here?",
        facts=f"{provenance['environment']['device']}, {len(findings)} cases",
        legend=LEGEND,
        summary={
            "columns": ["operation", "mode", *(rows[0][2] if rows else ())],
            "rows": [[operation, modes, *cells.values()] for operation, modes, cells in rows],
        },
        columns=[field.name for field in fields(Finding)],
        cases=cases,
        remarkable=[
            row
            for row, finding in zip(cases, findings, strict=True)
            if finding.status != "ok" or not (finding.repeatable and finding.symmetric)
        ],
        definitions=[[name, known[name]] for name in dict.fromkeys(finding.operation for finding in findings)],
        provenance=[[key, json.dumps(value)] for key, value in provenance.items()],
    )
    pages.write(path, text)
