"""Read the weights of a checkpoint, or of a network at an import path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symbreak.callbacks.functional import CloneGroup, find_clones
from symbreak.callbacks.functional.clones import equal_units
from symbreak.callbacks.functional.unit_sets import Part
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.checkpoints import StoredWeights, load, read_weights


def read(
    target: str, arguments: dict[str, Any], checkpoint: Path | None, tolerance: float
) -> tuple[Mapping[str, Tensor], list[CloneGroup]]:
    """Return weights by layer and the groups of copies: of a network by its structure, of a file by weight and bias."""
    if Path(target).exists():
        if checkpoint is not None:
            raise UsageError(f"--checkpoint goes with an import path, and {target} is a file")
        weights = read_weights(Path(target))
        return weights, stored_clones(weights, tolerance)
    network = make_network(target, arguments)
    if checkpoint is not None:
        load(network, checkpoint)
    return weights_of(network), find_clones(network, tolerance=tolerance)


def stored_clones(weights: StoredWeights, tolerance: float = 0.0) -> list[CloneGroup]:
    """Return the groups of rows of each stored weight that are equal, bitwise by default, bias included.

    A checkpoint does not say which layer reads a layer, so outgoing weights are not compared.
    """
    groups = []
    for layer, weight in weights.items():
        bias = weights.bias(layer)
        tensors = {"weight": weight} | ({} if bias is None or len(bias) != len(weight) else {"bias": bias})
        parts = [Part((name,), tuple(tensor.shape)) for name, tensor in tensors.items()]
        groups += [
            CloneGroup(layer, "rows", tuple(members), False, "not known from a checkpoint alone")
            for members in equal_units(parts, len(weight), tensors, tolerance)
        ]
    return groups


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
    if not module:
        raise UsageError(f"{path!r} is neither a file nor an import path, such as torchvision.models.resnet18")
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
    from symbreak.callbacks.layers import weight_layers  # 150 MB of memory that a checkpoint does not need

    return {layer.name or "weight": layer.weight().detach().cpu() for layer in weight_layers(network)}
