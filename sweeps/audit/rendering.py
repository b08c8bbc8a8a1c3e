"""An audit as a table on the terminal, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table

from symbreak.sweeps.audit.cases import Finding
from symbreak.sweeps.audit.operations import OPERATIONS
from symbreak.sweeps.audit.reduction import REDUCTIONS

LEGEND = (
    "yes: the same bits again, and identical channels stay identical, in every case. "
    "≠ 2/8 (3): in 2 of 8 cases identical channels part, into up to 3 kinds. "
    "~ 2/8: in 2 of 8 cases another run gives other bits. x3: over 3 ranks. -: unsupported here. "
    "refused: by the mode."
)
_STYLES = {"good": "green", "warning": "yellow", "bad": "red", "none": "dim"}


@dataclass(frozen=True)
class Cell:
    """What an operation showed in one precision: a few words, and how bad it is (a key of the styles)."""

    text: str
    level: str


def summarise(findings: Sequence[Finding]) -> list[tuple[str, str, dict[str, Cell]]]:
    """Condense findings to rows of (operation, modes, cell per precision); modes that agree share a row."""
    precisions = list(dict.fromkeys(finding.precision for finding in findings))
    rows = []
    for label in dict.fromkeys(map(_label, findings)):
        own = [finding for finding in findings if _label(finding) == label]
        by_cells: dict[tuple[Cell, ...], list[str]] = {}
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


def _cell(findings: Sequence[Finding]) -> Cell:
    judged = [finding for finding in findings if finding.status == "ok"]
    if not judged:
        return Cell("refused" if any(f.status == "refused" for f in findings) else "-", "none")
    varying = sum(not finding.repeatable for finding in judged)
    asymmetric = sum(not finding.symmetric for finding in judged)
    words = []
    if varying:
        words.append(f"~ {varying}/{len(judged)}")
    if asymmetric:
        distinct = max(finding.distinct or 0 for finding in judged)
        words.append(f"≠ {asymmetric}/{len(judged)} ({distinct})")
    return Cell(" ".join(words) or "yes", "bad" if varying else "warning" if asymmetric else "good")


def summary_table(findings: Sequence[Finding]) -> Table:
    """Return the summary for the terminal; modes have a column where they matter."""
    rows = summarise(findings)
    with_modes = any(modes != "all" for _, modes, _ in rows)
    table = Table(title="Repeatable and symmetric?", box=None, padding=(0, 1, 0, 0))
    for heading in ("operation", *(["mode"] if with_modes else []), *(rows[0][2] if rows else ())):
        table.add_column(heading, overflow="fold")
    for operation, modes, cells in rows:
        styled = [f"[{_STYLES[cell.level]}]{cell.text}[/]" for cell in cells.values()]
        table.add_row(operation, *([modes] if with_modes else []), *styled)
    return table


def write_json(path: Path, provenance: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Write provenance and all findings, one row a line under the names in ``columns``."""
    columns = [field.name for field in fields(Finding)]
    rows = ",\n".join(json.dumps(list(asdict(finding).values())) for finding in findings)
    head = json.dumps({"provenance": provenance, "columns": columns}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n]\n}}\n', encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>symbreak audit</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
.wide {{ overflow-x: auto; }}
th, td {{ text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }}
.good {{ color: #2a7d46; }} .warning {{ color: #b36b00; }} .bad {{ color: #c0392b; }} .none {{ opacity: .55; }}
</style></head><body>
<h1>Which operation breaks symmetry here?</h1>
<p>{device}, {count} cases. An operation is <em>repeatable</em> if it gives the same bits again, and <em>symmetric</em>
if identical channels going in come out identical.</p>
<p>{legend}</p>
<h2>Summary</h2><div class="wide">{summary}</div>
<h2>Cases that are not both</h2><div class="wide">{remarkable}</div>
<h2>What symmetric means</h2><div class="wide">{definitions}</div>
<h2>Provenance</h2><div class="wide">{provenance}</div>
<details><summary>All {count} cases</summary><div class="wide">{everything}</div></details>
</body></html>
"""


def write_html(path: Path, provenance: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Write a page that needs nothing else: summary, remarkable cases, definitions, provenance, all cases."""
    rows = summarise(findings)
    columns = [field.name for field in fields(Finding)]
    remarkable = [f for f in findings if f.status != "ok" or not (f.repeatable and f.symmetric)]
    known = {name: operation.symmetry for name, operation in OPERATIONS.items()} | REDUCTIONS
    names = dict.fromkeys(finding.operation for finding in findings)
    page = _PAGE.format(
        device=escape(str(provenance["environment"]["device"])),
        count=len(findings),
        legend=escape(LEGEND),
        summary=_table(
            ["operation", "mode", *(rows[0][2] if rows else ())],
            [[operation, modes, *cells.values()] for operation, modes, cells in rows],
        ),
        remarkable=_table(columns, [list(asdict(finding).values()) for finding in remarkable]),
        definitions=_table(["operation", "symmetric if"], [[name, known[name]] for name in names]),
        provenance=_table(["", ""], [[key, json.dumps(value)] for key, value in provenance.items()]),
        everything=_table(columns, [list(asdict(finding).values()) for finding in findings]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_td, row))}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _td(value: Any) -> str:
    if isinstance(value, Cell):
        return f'<td class="{value.level}">{escape(value.text)}</td>'
    return f"<td>{'' if value is None else escape(str(value))}</td>"
