"""Which layers of a network are measured, found by the types and names of its modules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class WeightLayer:
    """One weight of the network.

    Attributes:
        name: dotted name of its module; the three projections of an attention end in q_proj, k_proj and v_proj.
        owner: dotted name of the module itself.
        weight: reads the weight as it is now, (C_out, C_in / groups, ...).
        space: number of spatial axes: 2 for Conv2d, 0 for a linear map.
    """

    name: str
    owner: str
    weight: Callable[[], Tensor]
    space: int


@dataclass(frozen=True)
class FeatureLayer:
    """One module whose output is measured.

    Attributes:
        name: its dotted name.
        module: the module.
        space: number of spatial axes its output has if it comes from a convolution, else 0.
        weights: names of the weight layers whose innermost block it is.
    """

    name: str
    module: nn.Module
    space: int
    weights: tuple[str, ...]

    def channel_dim(self, output: Tensor) -> int:
        """Axis of the channels: 1 after a convolution, the last one after a linear map or an attention."""
        return 1 if self.space and output.ndim == self.space + 2 else -1


def weight_layers(root: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[WeightLayer]:
    """The convolutions, transposed convolutions, linear maps and attention projections below ``root``, in their order.

    Args:
        root: the network, or the LightningModule that holds it.
        include: patterns of names (``fnmatch``); where there are any, a layer must match one.
        exclude: patterns of names; a layer that matches one is left out.
    """
    found = [layer for name, module in root.named_modules() for layer in _weights(name, module)]
    return [layer for layer in found if _selected(layer.name, include, exclude)]


def feature_layers(root: nn.Module) -> list[FeatureLayer]:
    """For each weight below ``root`` its innermost enclosing block, or the layer itself where there is none.

    A block is an ancestor that is neither a plain container (exactly Sequential, ModuleList, ModuleDict) nor the whole
    network, i.e. that does not hold every one of the network's weights.
    """
    modules, weights = dict(root.named_modules()), weight_layers(root)
    owners = [layer.owner for layer in weights]
    blocks: dict[str, list[WeightLayer]] = {}
    for layer in weights:
        blocks.setdefault(_block(layer.owner, modules, owners), []).append(layer)
    return [
        FeatureLayer(name, modules[name], max(layer.space for layer in layers), tuple(layer.name for layer in layers))
        for name, layers in blocks.items()
    ]


def _selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    included = not include or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude)


def _weights(name: str, module: nn.Module) -> list[WeightLayer]:
    if isinstance(module, CONVOLUTIONS):
        return [WeightLayer(name, name, lambda: _weight(module), len(module.kernel_size))]
    if isinstance(module, TRANSPOSED):
        return [WeightLayer(name, name, lambda: _by_output(_weight(module), module.groups), len(module.kernel_size))]
    if isinstance(module, nn.Linear):
        return [WeightLayer(name, name, lambda: _weight(module), 0)]
    if isinstance(module, nn.MultiheadAttention):
        return [WeightLayer(f"{name}.{part}_proj", name, _projection(module, i), 0) for i, part in enumerate("qkv")]
    return []


def _weight(module: nn.Module) -> Tensor:
    """The weight; a parametrized one in evaluation mode, since spectral_norm moves its state when training reads it."""
    if not parametrize.is_parametrized(module, "weight"):
        return module.weight  # pyright: ignore[reportReturnType]
    own = cast(nn.ModuleDict, module.parametrizations)["weight"]
    training = {part: part.training for part in own.modules()}
    own.eval()
    try:
        return module.weight  # pyright: ignore[reportReturnType]
    finally:
        for part, mode in training.items():
            part.training = mode


def _projection(attention: nn.MultiheadAttention, index: int) -> Callable[[], Tensor]:
    def weight() -> Tensor:
        if attention.in_proj_weight is not None:
            return attention.in_proj_weight.chunk(3)[index]
        return (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[index]

    return weight


def _by_output(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight (C_in, C_out / groups, ...) as (C_out, C_in / groups, ...)."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _block(owner: str, modules: dict[str, nn.Module], owners: Sequence[str]) -> str:
    parts = owner.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        whole = all(other == name or other.startswith(f"{name}.") for other in owners)
        if type(modules[name]) not in CONTAINERS and not whole:
            return name
    return owner


def first_tensor(output: object) -> Tensor | None:
    """The first floating-point tensor in a module's output, which may be a tuple, a list or a dictionary of them."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.ndim > 1 else None
    nested = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((tensor for tensor in map(first_tensor, nested) if tensor is not None), None)
