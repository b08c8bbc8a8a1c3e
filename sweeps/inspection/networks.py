"""Read the weights of a checkpoint, or of a network at an import path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symbreak.callbacks.functional import CloneGroup, find_clones
from symbreak.callbacks.layers import weight_layers
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.checkpoints import load, read_weights


def read(
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
