"""The weights that each type of layer adds to sets of interchangeable units."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from symbreak.callbacks.functional.unit_sets import Part, Units

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
LOW_RANK = (("down", "up"), ("lora_A", "lora_B"))
ORDERED = (nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, nn.LocalResponseNorm, nn.GLU, nn.Fold, nn.Unfold)
"""Modules without parameters that do not treat all units alike."""
OPEN = "open"
"""A tensor without tracked units, such as a network's input."""


def known(module: nn.Module) -> bool:
    """Return whether a module is an attention, a mixture of experts or an adapter, by its type or child names."""
    return isinstance(module, nn.MultiheadAttention) or bool(_heads(module) or _router(module) or _low_rank(module))


def _heads(module: nn.Module) -> int:
    projections: list[Any] = [getattr(module, name, None) for name in PROJECTIONS]
    heads = getattr(module, "num_heads", 0)
    if not heads or not all(isinstance(each, nn.Linear) for each in projections):  # such as an adapter
        return 0
    q, k, v, out = projections
    sizes = (q.out_features, v.out_features)
    fits = k.out_features == q.out_features and out.in_features == v.out_features  # false where heads share keys
    return int(heads) if fits and not any(size % int(heads) for size in sizes) else 0


def _router(module: nn.Module) -> str:
    if not isinstance(getattr(module, "experts", None), nn.ModuleList):
        return ""
    return next((name for name in ("router", "gate") if isinstance(getattr(module, name, None), nn.Linear)), "")


def _low_rank(module: nn.Module) -> tuple[str, str] | None:
    names = dict(module.named_parameters())
    for down, up in LOW_RANK:
        for suffix in ("", ".weight"):
            pair = (down + suffix, up + suffix)
            if all(name in names and names[name].ndim == 2 for name in pair) and _is_adapter(module, names, pair):
                return pair
    return None


def _is_adapter(module: nn.Module, names: dict[str, nn.Parameter], pair: tuple[str, str]) -> bool:
    """Return whether the shapes are those of an adapter of the module's linear map; not so in a gated MLP."""
    down, up = (names[name] for name in pair)
    others = [name for name, child in module.named_children() if isinstance(child, nn.Linear)]
    bases = [names[f"{name}.weight"] for name in others if f"{name}.weight" not in pair]
    bases += [names["weight"]] if "weight" in names else []
    shape = (up.shape[0], down.shape[1])
    return up.shape[1] == down.shape[0] and bool(bases) and all(base.shape == shape for base in bases)


def close(value: Any) -> None:
    """Mark the units in a value as used in a way that is not traced."""
    if isinstance(value, Units):
        value.root().open = True


class UnitLayers:
    """The units of all layers traced so far.

    Args:
        follow: returns the units of a module's output, given the module, its name and the units of its inputs.
    """

    def __init__(self, follow: Callable[[nn.Module, str, list[Any]], Any]) -> None:
        self.found: list[Units] = []
        self.follow = follow

    def output(self, module: nn.Module, name: str, inputs: list[Any]) -> Any:
        """Return the units of a layer's output; NotImplemented for a module with children."""
        source = inputs[0] if inputs else OPEN
        if isinstance(module, nn.MultiheadAttention) or _heads(module):
            return self._attention(module, name, inputs)
        if _router(module):
            return self._mixture(module, name, source)
        if pair := _low_rank(module):
            return self._adapter(module, name, pair, source)
        if isinstance(module, _ConvNd) and module.groups == 1:
            axis = 1 if isinstance(module, _ConvTransposeNd) else 0
            return self._layer(module, name, "channels", source, axis)
        if isinstance(module, nn.Linear):
            return self._layer(module, name, "neurons", source, 0)
        if isinstance(module, nn.Embedding):
            return self._new(name, "neurons", module.embedding_dim, [_part(module.weight, join(name, "weight"), 1)])
        return self._other(module, name, source)

    def _other(self, module: nn.Module, name: str, source: Any) -> Any:
        if isinstance(module, ORDERED):
            close(source)
            return OPEN
        if isinstance(module, (_BatchNorm, nn.LayerNorm)) or not list(module.parameters(recurse=False)):
            if isinstance(source, Units):
                for key, parameter in module.named_parameters(recurse=False):
                    if parameter.ndim == 1 and len(parameter) == source.root().count:
                        source.root().incoming.append(_part(parameter, join(name, key), 0))
            return source
        if all(parameter.numel() == 1 for parameter in module.parameters()):
            return source  # a trainable scalar acts equally on all units
        if list(module.children()):
            return NotImplemented
        close(source)
        return OPEN

    def _new(self, name: str, kind: str, count: int, incoming: list[Part], outgoing: list[Part] | None = None) -> Units:
        units = Units(name, kind, count, incoming, outgoing or [])
        earlier = next((each for each in self.found if (each.name, each.kind) == (name, kind)), None)
        self.found.append(units)
        return earlier.merge(units) if earlier else units  # a layer that is applied twice

    def _layer(self, module: Any, name: str, kind: str, source: Any, axis: int) -> Units:
        weight = join(name, "weight")
        _consume(source, module.weight, weight, 1 - axis)
        incoming = [_part(module.weight, weight, axis)]
        if module.bias is not None:
            incoming.append(_part(module.bias, join(name, "bias"), 0))
        return self._new(name, kind, module.weight.shape[axis], incoming)

    def _attention(self, module: Any, name: str, inputs: list[Any]) -> Units:
        heads, incoming = module.num_heads, []
        for index, (key, tensor, thirds) in enumerate(_projections(module)):
            width = tensor.shape[0] // thirds
            shape = (thirds, heads, width // heads, *tensor.shape[1:])
            incoming.append(Part((join(name, key),), shape, 1))
            if tensor.ndim == 2:
                _consume(inputs[min(index, len(inputs) - 1)], tensor, join(name, key), 1)
        out, key = module.out_proj.weight, join(name, "out_proj.weight")
        outgoing = [Part((key,), (out.shape[0], heads, out.shape[1] // heads), 1)]
        self._new(name, "heads", heads, incoming, outgoing)
        return self._layer(module.out_proj, join(name, "out_proj"), "neurons", None, 0)

    def _mixture(self, module: Any, name: str, source: Any) -> Any:
        router = _router(module)
        gate, experts, result = getattr(module, router), list(module.experts), None
        keys = [key for key, _ in experts[0].named_parameters()]
        prefix = [join(name, f"experts.{index}") for index in range(len(experts))]
        incoming = [Part(tuple(f"{each}.{key}" for each in prefix)) for key in keys]
        outgoing = [_part(p, join(name, f"{router}.{key}"), 0) for key, p in gate.named_parameters()]
        if len({tuple(p.shape for p in expert.parameters()) for expert in experts}) == 1:
            self._new(name, "experts", len(experts), incoming, outgoing)
        _consume(source, gate.weight, join(name, f"{router}.weight"), 1)
        for each, expert in zip(prefix, experts, strict=True):
            output = self.follow(expert, each, [source])
            result = result.merge(output) if isinstance(result, Units) and isinstance(output, Units) else output
        return result

    def _adapter(self, module: nn.Module, name: str, pair: tuple[str, str], source: Any) -> Any:
        down, up = (dict(module.named_parameters())[key] for key in pair)
        incoming, outgoing = [_part(down, join(name, pair[0]), 0)], [_part(up, join(name, pair[1]), 1)]
        self._new(name, "ranks", len(down), incoming, outgoing)
        _consume(source, down, join(name, pair[0]), 1)
        written = [_part(up, join(name, pair[1]), 0)]
        result = self._new(name, "neurons", len(up), written)
        for child_name, child in [("", module), *module.named_children()]:
            if isinstance(child, nn.Linear) and f"{child_name}.weight" not in pair:
                result.merge(self._layer(child, join(name, child_name).removesuffix("."), "neurons", source, 0))
        return result


def _projections(module: Any) -> Iterator[tuple[str, Tensor, int]]:
    """Yield name, tensor and number of stacked projections of an attention's inputs, weights before biases."""
    names = dict(module.named_parameters())
    if "in_proj_weight" in names:
        yield "in_proj_weight", names["in_proj_weight"], 3
    for suffix in ("_proj.weight", "_proj_weight", "_proj.bias"):
        for letter in "qkv":
            if (tensor := names.get(letter + suffix)) is not None:
                yield letter + suffix, tensor, 1
    if names.get("in_proj_bias") is not None:
        yield "in_proj_bias", names["in_proj_bias"], 3


def _part(tensor: Tensor, name: str, axis: int) -> Part:
    return Part((name,), tuple(tensor.shape), axis)


def _consume(source: Any, weight: Tensor, name: str, axis: int) -> None:
    """Record the columns of a weight that read the units; flattened feature maps have several columns per unit."""
    if not isinstance(source, Units):
        return
    units, size = source.root(), weight.shape[axis]
    if size % units.count:
        units.open = True
        return
    shape = (*weight.shape[:axis], units.count, size // units.count, *weight.shape[axis + 1 :])
    units.outgoing.append(Part((name,), shape, axis))


def join(prefix: str, name: str) -> str:
    """Join a prefix and a name with a dot."""
    return f"{prefix}.{name}" if prefix else name
