"""`symbreak inspect`: how diverse the weights of one network are, now."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from symbreak.callbacks.layers import weight_layers
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.layers import LayerInspection, inspect_layers
from symbreak.sweeps.inspection.page import cells, remarks, write_page

SHOWN = 20
"""How many lines about single filters the terminal shows; the page has all of them."""
COLUMNS = ("layer", "weight", "distinct", "copies", "dead", "forward", "backward", "kernel", "rank")
"""What fits a terminal of 80 columns; the page has more."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep the weights."""


def inspect(
    target: str,
    output: Path | None = None,
    arguments: dict[str, Any] | None = None,
    checkpoint: Path | None = None,
    similarity: float = 0.999,
) -> Path:
    """Show the diversity of one network's weights: copies and dead filters by name, correlations, ranks.

    Args:
        target: A checkpoint (Lightning's, or a file with a state_dict), read without unpickling any code, or the import
            path of a network or of a function that makes one, such as torchvision.models.resnet18. A checkpoint does
            not tell the types of its layers: weights count as (outputs, inputs, ...), the wrong way round for a
            transposed convolution.
        output: HTML page to write (default: runs/inspect-NAME.html).
        arguments: Keyword arguments for the network at an import path, such as '{num_classes: 10}'.
        checkpoint: What the network at an import path loads, so that the types of its layers are known.
        similarity: Filters whose cosine is at least this count as copies.

    Returns:
        Where the page is.

    Raises:
        UsageError: If the target cannot be read, or holds no weights.
    """
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity={similarity} must be above 0 and at most 1")
    path = Path(target)
    if path.exists():
        if checkpoint is not None:
            raise UsageError(f"--checkpoint goes with an import path, and {target} is a file")
        weights = read_weights(path)
    else:
        network = make_network(target, arguments or {})
        if checkpoint is not None:
            load(network, checkpoint)
        weights = weights_of(network)
    if not weights:
        raise UsageError(f"{target} holds no weight of two or more dimensions")
    console = Console()
    with console.status(f"Measuring {len(weights)} layers"):
        layers = inspect_layers(weights, similarity)
    console.print(_table(target, layers))
    lines = remarks(layers)
    for line in lines[:SHOWN]:
        console.print(line, markup=False, highlight=False)
    if len(lines) > SHOWN:
        console.print(f"and {len(lines) - SHOWN} more lines on the page", markup=False)
    page = output or Path(
        "runs", f"inspect-{re.sub(r'[^A-Za-z0-9]+', '-', path.stem if path.exists() else target)}.html"
    )
    write_page(page, target, layers)
    return page


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, by the names of their layers.

    Args:
        path: A file of ``torch.save``. Only tensors and plain Python values are read, never code.

    Returns:
        Every floating-point tensor of two or more dimensions whose name ends in ``weight``.

    Raises:
        UsageError: If it is no such file.
    """
    weights: dict[str, Tensor] = {}
    for name, value in _read_state(path).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and value.numel():
            weights |= _named(str(name), value)
    return weights


def load(network: nn.Module, path: Path) -> None:
    """Load a checkpoint into a network.

    Raises:
        UsageError: If the file cannot be read, or names other weights or shapes than the network has.
    """
    try:
        network.load_state_dict(dict(_read_state(path)))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} does not fit the network: {reason[:300]}") from error


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds Python objects, which are not unpickled here, or is no checkpoint"
        raise UsageError(f"{path} {what}; save the network's state_dict() alone") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise UsageError(f"{path} is not a file of torch.save{reason}") from error
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return content


def _named(name: str, weight: Tensor) -> dict[str, Tensor]:
    layer, _, kind = name.rpartition(".")
    if kind == "in_proj_weight":
        return {f"{layer}.{part}_proj": part_weight for part, part_weight in zip("qkv", weight.chunk(3), strict=True)}
    if kind.endswith("_proj_weight"):
        return {f"{layer}.{kind.removesuffix('_weight')}": weight}
    return {layer or name: weight} if kind == "weight" else {}


def make_network(path: str, arguments: dict[str, Any]) -> nn.Module:
    """Import a network, or call what makes one.

    Args:
        path: ``package.module.name``.
        arguments: Keyword arguments.

    Returns:
        The network.

    Raises:
        UsageError: If there is no such thing, or it makes no network.
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
