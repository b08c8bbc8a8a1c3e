"""The report as one HTML page that needs no network."""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from symbreak.sweeps.report.figures import Figure
from symbreak.sweeps.report.findings import Finding
from symbreak.sweeps.report.grids import Grid
from symbreak.sweeps.run.record import Skipped

MAX_TEXT = 20_000
_ASSETS = files("symbreak.sweeps.report") / "assets"


@dataclass(frozen=True)
class Page:
    """What the report says, before it becomes HTML.

    Attributes:
        title: Heading and title of the page.
        facts: One line about the number and state of runs.
        findings: Plain sentences.
        arms: Table of arms.
        runs: Table of runs.
        figures: In order; figures of one section stand together.
        skipped: Folders left out.
        provenance: Rows (item, value, number of runs).
        commands: Run and its command line.
        refresh: Seconds between reloads of the page, 0 for a page that is finished.
    """

    title: str
    facts: str
    findings: Sequence[Finding] = ()
    arms: Grid = field(default_factory=lambda: Grid([], []))
    runs: Grid = field(default_factory=lambda: Grid([], []))
    figures: Sequence[Figure] = ()
    skipped: Sequence[Skipped] = ()
    provenance: Sequence[tuple[str, str, int]] = ()
    commands: Sequence[tuple[str, str]] = ()
    refresh: float = 0.0


def render(page: Page) -> str:
    """The whole page. Every text is escaped, and scripts are allowed by their hash alone."""
    sections = [section for section in _sections(page) if section[1]]
    script, plotly = (_ASSETS / "page.js").read_text(encoding="utf-8"), get_plotlyjs().replace("</script", r"<\/script")
    # Plotly's parallel coordinates compile their shaders' glue code, which needs unsafe-eval.
    allowed = " ".join(f"'sha256-{_digest(code)}'" for code in (plotly, script))
    policy = f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
    return (
        Template((_ASSETS / "page.html").read_text(encoding="utf-8"))
        .substitute(
            policy=policy,
            title=_escape(page.title),
            facts=_escape(page.facts),
            refresh=f'<noscript><meta http-equiv="refresh" content="{page.refresh:g}"></noscript>'
            if page.refresh
            else "",
            live=_live(page.refresh),
            style=(_ASSETS / "page.css").read_text(encoding="utf-8"),
            navigation="".join(f'<a href="#{_anchor(name)}">{_escape(name)}</a>' for name, _ in sections),
            main="\n".join(
                f'<section id="{_anchor(name)}"><h2>{_escape(name)}</h2>{body}</section>' for name, body in sections
            ),
            made=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M %Z"),
            plotly=plotly,
            script=script,
        )
        .replace("<body>", f'<body data-refresh="{page.refresh:g}">', 1)
    )


def _sections(page: Page) -> list[tuple[str, str]]:
    drawn = [(name, _figures(list(group))) for name, group in groupby(page.figures, key=lambda figure: figure.section)]
    findings = "".join(f"<li><strong>{_escape(f.subject)}</strong> {_escape(f.text)}</li>" for f in page.findings)
    return [
        ("Findings", f'<ul class="findings">{findings}</ul>' if findings else ""),
        ("Arms", _table(page.arms, "arms-table")),
        *drawn,
        ("Runs", _filter(len(page.runs.rows)) + _table(page.runs, "runs-table") if page.runs.rows else ""),
        ("Left out", _skipped(page.skipped)),
        ("Provenance", _provenance(page)),
    ]


def _figures(figures: Sequence[Figure]) -> str:
    return f'<div class="figures">{"".join(map(_figure, figures))}</div>'


def _figure(figure: Figure) -> str:
    return (
        f'<figure id="{_anchor(figure.key)}" data-key="{_escape(figure.key)}"{" class=wide" if figure.wide else ""}>'
        f'<h3>{_escape(figure.title)}</h3><div class="chips"></div>'
        f'<div class="plot" style="height:{figure.height}px" role="img" aria-label="{_escape(figure.title)}"></div>'
        f'<figcaption class="caption">{_escape(figure.caption)}</figcaption>'
        f'<script type="application/json">{_embedded(figure.plot.to_json() or "{}")}</script></figure>'
    )


def _embedded(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _table(grid: Grid, name: str) -> str:
    if not grid.rows:
        return ""
    numeric = [any(not isinstance(row[i].value, str) for row in grid.rows) for i in range(len(grid.columns))]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{_escape(column)}</button></th>'
        for column, kind in zip(grid.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in grid.rows
    )
    return (
        f'<div class="scroll tall"><table class="sortable" id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Any, kind: str) -> str:
    unknown = cell.value in (float("inf"), "")
    key = "" if unknown else str(cell.value)[:200]
    return f'<td{kind} data-value="{_escape(key)}"><div>{_escape(cell.text)}</div></td>'


def _filter(count: int) -> str:
    field = '<input type="search" id="filter" placeholder="Filter: words a row must contain" aria-label="Filter runs">'
    shown = f'<span id="shown" class="facts" aria-live="polite">{count} of {count} runs</span>'
    return f'<div class="tools">{field}{shown}</div>'


def _skipped(skipped: Sequence[Skipped]) -> str:
    rows = "".join(
        f'<tr><td><div>{_escape(item.name)}</div></td><td><div class="status">{_escape(item.reason)}</div></td>'
        f"<td><pre>{_escape(item.detail)}</pre></td></tr>"
        for item in skipped
    )
    head = "<thead><tr><th>folder</th><th>why</th><th>last words</th></tr></thead>"
    return f'<div class="scroll tall"><table>{head}<tbody>{rows}</tbody></table></div>' if rows else ""


def _provenance(page: Page) -> str:
    rows = "".join(
        f'<tr><td>{_escape(item)}</td><td>{_escape(value)}</td><td class="number">{count}</td></tr>'
        for item, value, count in page.provenance
    )
    head = '<thead><tr><th>item</th><th>value</th><th class="number">runs</th></tr></thead>'
    table = f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>' if rows else ""
    lines = "\n".join(f"{run}: {command}" for run, command in page.commands)
    shown = (
        f"<details><summary>Commands of all runs</summary><pre>{_escape(lines, None)}</pre></details>" if lines else ""
    )
    return table + shown


def _live(refresh: float) -> str:
    if not refresh:
        return ""
    return f'<p class="live">live: updates every {refresh:g} s <button type="button">pause</button></p>'


def _escape(text: object, limit: int | None = MAX_TEXT) -> str:
    """Text as HTML shows it literally; lone surrogates, which UTF-8 cannot hold, become question marks."""
    line = str(text)
    cut = line if limit is None or len(line) <= limit else f"{line[:limit]}… ({len(line)} characters)"
    return html.escape(cut.encode("utf-8", "replace").decode("utf-8"), quote=True)


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "section"


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
