"""What became of a run, in the few figures that a table shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("test accuracy", "distinct filters", "broken step", "escape step", "growth rate")


def _number(value: Any, form: str, absent: str = "-") -> str:
    return absent if value is None else format(value, form)


def distinct_filters(summary: Mapping[str, Any]) -> str:
    """Return the last number of distinct filters over the hidden layers: ``1 in 10 of 10 layers``, or a range.

    The output layer, whose filters belong to different classes by definition, is recognised by its place: last.
    """
    key = "symmetry/distinct_filters/"
    hidden = [int(value) for name, value in summary.items() if name.startswith(key) and value is not None][:-1]
    if not hidden:
        return "-"
    if single := hidden.count(1):
        return f"1 in {single} of {len(hidden)} layers"
    return f"{min(hidden)} to {max(hidden)}"


def outcome(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of one run's row, by the names in ``COLUMNS``; a step that never came is ``never``."""
    watched = "symmetry/distinct_filters" in summary
    never = "never" if watched else "-"
    accuracy = summary.get("test/accuracy")
    values = (
        _number(accuracy, ".1%"),
        distinct_filters(summary),
        _number(summary.get("symmetry/broken_step"), ".0f", never),
        _number(summary.get("symmetry/escape_step"), ".0f", never),
        _number(summary.get("symmetry/growth_rate"), ".3f"),
    )
    return dict(zip(COLUMNS, values, strict=True))


def print_run(path: Path, summary: Mapping[str, Any]) -> None:
    """Print one run's outcome and where it lies."""
    table = Table(title=f"[bold]{path}[/bold]", title_justify="left")
    for column, value in outcome(summary).items():
        if value != "-":
            table.add_column(column, justify="right")
    table.add_row(*(value for value in outcome(summary).values() if value != "-"))
    Console().print(table)
