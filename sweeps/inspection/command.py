"""`symbreak inspect`: the diversity of one network's weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output

SHOWN = 20
"""Maximum number of lines about single filters on the terminal; the page has all of them."""


def inspect(
    target: str,
    output: Path | None = None,
    arguments: dict[str, Any] | None = None,
    checkpoint: Path | None = None,
    similarity: float = 0.999,
    tolerance: float = 0.0,
) -> Path:
    """Show the diversity of one network's weights: copies and dead filters by name, correlations, ranks.

    Args:
        target: A checkpoint (Lightning's, or a file with a state_dict), read without unpickling any code, or the import
            path of a network or of a function that makes one, such as torchvision.models.resnet18. A checkpoint does
            not store layer types: weights are read as (outputs, inputs, ...), which is reversed for a transposed
            convolution.
        output: HTML page to write (default: runs/inspect-NAME.html, numbered if it exists).
        arguments: Keyword arguments for the network at an import path, such as '{num_classes: 10}'.
        checkpoint: Checkpoint to load into the network at an import path, so that layer types are known.
        similarity: Filters whose cosine is at least this count as copies.
        tolerance: Relative distance up to which units count as interchangeable copies; 0 compares bits.

    Returns:
        Path of the page.

    Raises:
        UsageError: If the target cannot be read or holds no weights, or the page cannot be written.
    """
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity={similarity} must be above 0 and at most 1")
    if tolerance < 0:
        raise UsageError(f"tolerance={tolerance} must be at least 0")
    path = Path(target)
    page = output or _new_page(path.stem if path.exists() else target)
    check_output(page)
    from rich.console import Console

    from symbreak.sweeps.inspection.layers import inspect_layers
    from symbreak.sweeps.inspection.networks import clone_remark, read
    from symbreak.sweeps.inspection.page import remarks, write_page
    from symbreak.sweeps.inspection.table import terminal_table

    weights, clones = read(target, arguments or {}, checkpoint, tolerance)
    if not weights:
        raise UsageError(f"{target} holds no weight of two or more dimensions")
    console = Console()
    with console.status(f"Measuring {len(weights)} layers"):
        layers = inspect_layers(weights, similarity)
    console.print(terminal_table(target, layers))
    lines = [clone_remark(group) for group in clones] + remarks(layers)
    for line in lines[:SHOWN]:
        console.print(line, markup=False, highlight=False)
    if len(lines) > SHOWN:
        console.print(f"and {len(lines) - SHOWN} more lines on the page", markup=False)
    write_page(page, target, layers, lines)
    return page


def _new_page(name: str) -> Path:
    """Return the default path of a page, numbered where an earlier page has it."""
    stem = f"inspect-{re.sub(r'[^A-Za-z0-9]+', '-', name)}"
    numbered = (Path("runs", f"{stem}{suffix}.html") for suffix in ["", *(f"-{n}" for n in range(2, 10_000))])
    return next(page for page in numbered if not page.exists())
