"""`symbreak inspect`: the diversity of one network's weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from symbreak.callbacks.functional import CloneGroup, find_clones
from symbreak.callbacks.layers import weight_layers
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.checkpoints import load, read_weights
from symbreak.sweeps.inspection.layers import LayerInspection, inspect_layers
from symbreak.sweeps.inspection.page import cells, remarks, write_page

SHOWN = 20
"""Maximum number of lines about single filters on the terminal; the page has all of them."""
COLUMNS = ("layer", "weight", "distinct", "copies", "dead", "forward", "backward", "kernel", "rank")
"""Table columns that fit a terminal 80 characters wide; the page has more."""


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
        tolerance: Relative distance up to which units of a network at an import path count as interchangeable copies;
            0 compares bits.

    Returns:
        Path of the page.

    Raises:
        UsageError: If the target cannot be read, or holds no weights.
    """
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity={similarity} must be above 0 and at most 1")
    if tolerance < 0:
        raise UsageError(f"tolerance={tolerance} must be at least 0")
    path = Path(target)
    weights, clones = _read(target, arguments or {}, checkpoint, tolerance)
    if not weights:
        raise UsageError(f"{target} holds no weight of two or more dimensions")
    console = Console()
    with console.status(f"Measuring {len(weights)} layers"):
        layers = inspect_layers(weights, similarity)
    console.print(_table(target, layers))
    lines = [clone_remark(group) for group in clones] + remarks(layers)
    for line in lines[:SHOWN]:
        console.print(line, markup=False, highlight=False)
    if len(lines) > SHOWN:
        console.print(f"and {len(lines) - SHOWN} more lines on the page", markup=False)
    page = output or _new_page(path.stem if path.exists() else target)
    write_page(page, target, layers, lines)
    return page


def _new_page(name: str) -> Path:
    """Return the default path of a page, numbered where an earlier page has it."""
    stem = f"inspect-{re.sub(r'[^A-Za-z0-9]+', '-', name)}"
    numbered = (Path("runs", f"{stem}{suffix}.html") for suffix in ["", *(f"-{n}" for n in range(2, 10_000))])
    return next(page for page in numbered if not page.exists())


def _read(
    target: str, arguments: dict[str, Any], checkpoint: Path | None, tolerance: float
) -> tuple[Mapping[str, Tensor], list[CloneGroup]]:
    """Return weights by layer and, for a network but not a file, its groups of interchangeable copies."""
    if Path(target).exists():
        if checkpoint is not None:
            raise UsageError(f"--checkpoint goes with an import path, and {target} is a file")
        return read_weights(Path(target)), []
    network = make_network(target, arguments)
    if checkpoint is not None:
        load(network, checkpoint)
    return weights_of(network), find_clones(network, tolerance=tolerance)


def clone_remark(group: CloneGroup) -> str:
    """Return a sentence about a group of interchangeable units: their grade, and what will separate them."""
    grade = "fully symmetric" if group.symmetric else "equal incoming weights"
    members = ", ".join(map(str, group.members))
    return f"{group.name}: {group.kind} {members} are copies ({grade}); what separates them: {group.verdict}"


def make_network(path: str, arguments: dict[str, Any]) -> nn.Module:
    """Import a network, or import and call a function that makes one.

    Args:
        path: ``package.module.name``.
        arguments: Keyword arguments.

    Returns:
        The network.

    Raises:
        UsageError: If the path cannot be imported or gives no network.
    """
    module, _, name = path.rpartition(".")
    try:
        made = getattr(import_module(module), name)
        made = made if isinstance(made, nn.Module) else made(**arguments)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{path!r} is neither a file nor an import path: {error}") from error
    except TypeError as error:
        raise UsageError(f"{path} cannot be called: {error}; give what it needs in --arguments") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{path} makes a {type(made).__name__}, not a network")
    return made


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network's layers by name."""
    return {layer.name or "weight": layer.weight().detach().cpu() for layer in weight_layers(network)}


def _table(target: str, layers: list[LayerInspection]) -> Table:
    table = Table(title=escape(f"Diversity of {target}"), box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in COLUMNS:
        is_name = heading == "layer"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for layer in layers:
        row = cells(layer)
        table.add_row(*(escape(row[heading]) for heading in COLUMNS), style="yellow" if layer.superfluous else None)
    return table
