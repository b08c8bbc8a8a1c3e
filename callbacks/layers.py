"""Find the layers of a network to measure, by the types and names of its modules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from symbreak.callbacks.weights import check_readable, is_sharded, readers, source

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Attributes in which torch.compile, checkpoint_wrapper and FSDP hold a module; removed from layer names."""


@dataclass(frozen=True)
class WeightLayer:
    """One weight of the network.

    Attributes:
        name: dotted name of its module; the three projections of an attention end in q_proj, k_proj and v_proj.
        owner: dotted name of the module itself.
        weight: function that returns the weight as the next forward pass uses it, (C_out, C_in / groups, ...).
        space: number of spatial axes: 2 for Conv2d, 0 for a linear map.
        source: the tensor, and the part of it, from which the weight is computed; equal for tied weights.
        sharded: whether the weight is distributed over processes, so that reading it is a collective.
    """

    name: str
    owner: str
    weight: Callable[[], Tensor]
    space: int
    source: tuple[int, str]
    sharded: bool = False


@dataclass(frozen=True)
class FeatureLayer:
    """One module whose output is measured.

    Attributes:
        name: dotted name of the module.
        module: the module, or its outermost wrapper.
        space: number of spatial axes of the output of a convolution, else 0.
        weights: names of the weight layers whose innermost block is this module.
        measured: whether one of those weights is selected.
        hides_features: whether the module was compiled as a whole, so that blocks inside it cannot be measured.
        hookable: whether a hook on the module stays outside compiled code.
    """

    name: str
    module: nn.Module
    space: int
    weights: tuple[str, ...]
    measured: bool = True
    hides_features: bool = False
    hookable: bool = True

    def channel_dim(self, output: Tensor) -> int:
        """Return the axis of the channels: 1 after a convolution, the last after a linear map or an attention."""
        return 1 if self.space and output.ndim == self.space + 2 else -1


def weight_layers(root: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[WeightLayer]:
    """Return the convolutions, transposed convolutions, linear maps and attention projections in definition order.

    A weight shared by several layers is listed once, under the first selected name. Empty weights are left out.

    Args:
        root: the network, or the LightningModule that holds it.
        include: patterns of names (``fnmatch``), one of which a layer must match; empty for all layers.
        exclude: patterns of names; a layer that matches one is left out.

    Raises:
        ValueError: if a pattern in ``include`` matches no layer, or a weight cannot be read.
    """
    found = list(_all_weights(root))
    for pattern in include:
        if not any(fnmatchcase(layer.name, pattern) for layer in found):
            names = ", ".join(layer.name for layer in found[:8]) + (", ..." if len(found) > 8 else "")
            raise ValueError(
                f"include pattern {pattern!r} matches no layer of {type(root).__name__}: {names or 'none'}"
            )
    first: dict[tuple[int, str], WeightLayer] = {}
    for layer in found:
        if _selected(layer.name, include, exclude):
            first.setdefault(layer.source, layer)
    return list(first.values())


def feature_layers(root: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[FeatureLayer]:
    """Return for each weight below ``root`` its innermost enclosing block, or the layer itself without one.

    A block is an ancestor that is not a plain container (exactly Sequential, ModuleList, ModuleDict), does not contain
    every weight of the network, and does not contain two or more other blocks (except attentions). If
    ``torch.compile`` was applied to a module around blocks, that module replaces them: hooks inside would change the
    compiled code. The arguments select layers as in :func:`weight_layers`. Layers that are not selected are listed too,
    since one may be the output layer.
    """
    modules, weights = _modules(root), list(_all_weights(root))
    block_of = _Blocks({name: found[-1] for name, found in modules.items()}, [layer.owner for layer in weights])
    groups: dict[str, list[WeightLayer]] = {}
    hiding: set[str] = set()
    for layer in weights:
        block = block_of(layer.owner)
        outer = next((name for name in _ancestors(block) if any(map(is_compiled, modules[name]))), block)
        if outer != block or any(map(_compiles_hooks, modules[outer])):
            hiding.add(outer)
        groups.setdefault(outer, []).append(layer)
    return [
        FeatureLayer(
            name,
            modules[name][0],
            max(layer.space for layer in layers),
            tuple(layer.name for layer in layers),
            any(_selected(layer.name, include, exclude) for layer in layers),
            name in hiding,
            not any(map(_compiles_hooks, modules[name])),
        )
        for name, layers in groups.items()
    ]


def is_compiled(module: nn.Module) -> bool:
    """Return whether ``torch.compile``, ``Module.compile`` or Lightning's compiled fit applies to the module itself."""
    own_forward = vars(module).get("forward")
    return (
        isinstance(module, OptimizedModule)
        or _compiles_hooks(module)
        or hasattr(own_forward, "_torchdynamo_orig_callable")
    )


def _compiles_hooks(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or vars(module).get("_compiler_ctx") is not None


def first_tensor(output: object) -> Tensor | None:
    """Return the first floating-point tensor in an output, which may be a tuple, a list or a dictionary."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.ndim > 1 and output.numel() else None
    nested = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((tensor for tensor in map(first_tensor, nested) if tensor is not None), None)


def _modules(root: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules by name without wrappers; modules with the same name from the outermost to the innermost."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in root.named_modules():
        found.setdefault(".".join(part for part in name.split(".") if part not in WRAPPERS), []).append(module)
    return found


def _all_weights(root: nn.Module) -> Iterator[WeightLayer]:
    for name, modules in _modules(root).items():
        for suffix, weight, space, attribute in readers(modules[-1]):
            stored = source(modules[-1], attribute)
            check_readable(name, modules[-1], stored)
            if stored.numel():
                part = suffix if attribute == "in_proj_weight" else ""
                yield WeightLayer(name + suffix, name, weight, space, (id(stored), part), is_sharded(stored))


def _selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    included = not include or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude)


def _ancestors(name: str) -> list[str]:
    """Return the root "", then every prefix of a dotted name, ending with the name itself."""
    parts = name.split(".") if name else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


class _Blocks:
    """Find the innermost block around the owner of a weight."""

    def __init__(self, modules: dict[str, nn.Module], owners: Sequence[str]) -> None:
        owned = dict.fromkeys(owners)
        count: dict[str, int] = {}
        for owner in owned:
            for name in _ancestors(owner)[:-1]:
                count[name] = count.get(name, 0) + 1
        total = len(owned)
        self._candidates = {
            name
            for name, size in count.items()
            if name and type(modules[name]) not in CONTAINERS and size + (name in owned) < total
        }
        innermost = [name for name in self._candidates if name not in owned and not self._below(name)]
        self._stages = {
            name for name in self._candidates if sum(other.startswith(f"{name}.") for other in innermost) > 1
        }

    def _below(self, name: str) -> list[str]:
        return [other for other in self._candidates if other.startswith(f"{name}.")]

    def __call__(self, owner: str) -> str:
        inside = [name for name in _ancestors(owner)[:-1] if name in self._candidates and name not in self._stages]
        return inside[-1] if inside else owner


def listed(names: Sequence[str], limit: int = 8) -> str:
    """Return names for a message, the first few of many."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
