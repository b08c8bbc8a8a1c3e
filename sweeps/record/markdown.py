"""Markdown of tables and texts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as escape_html


def escape(text: object) -> str:
    """Return a text on one line that Markdown shows literally inside a table."""
    line = escape_html(" ".join(str(text).split()), quote=False)
    for character in "\\`*_[]|":
        line = line.replace(character, f"\\{character}")
    return line


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are already Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
