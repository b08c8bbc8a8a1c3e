"""The table of an inspection for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from symbreak.sweeps.inspection.layers import LayerInspection
from symbreak.sweeps.inspection.page import cells

COLUMNS = ("layer", "weight", "distinct", "copies", "dead", "forward", "backward", "kernel", "rank")
"""Table columns that fit a terminal 80 characters wide; the page has more."""


def terminal_table(target: str, layers: list[LayerInspection]) -> Table:
    """Return the table of all layers for the terminal."""
    table = Table(title=escape(f"Diversity of {target}"), box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in COLUMNS:
        is_name = heading == "layer"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for layer in layers:
        row = cells(layer)
        table.add_row(*(escape(row[heading]) for heading in COLUMNS), style="yellow" if layer.superfluous else None)
    return table
