"""Which units of a network are interchangeable: channels, neurons, heads, experts and ranks, with their weights."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
LOW_RANK = (("down", "up"), ("lora_A", "lora_B"))
MIXING = {"matmul", "bmm", "einsum", "scaled_dot_product_attention", "mm", "baddbmm", "softmax"}
OPEN = "open"
"""A tensor whose last use is unknown, such as a network's input."""


@dataclass(frozen=True)
class Part:
    """The weights of a set of units: one tensor cut along an axis, or one tensor per unit.

    Attributes:
        names: name of the tensor, or of one tensor per unit.
        shape: shape of the tensor in which units have an axis of their own; empty for one tensor per unit.
        axis: that axis.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] = ()
    axis: int = 0

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the weights of each unit, (units, ...)."""
        if not self.shape:
            return torch.stack([tensors[name].detach() for name in self.names])
        return tensors[self.names[0]].detach().reshape(self.shape).movedim(self.axis, 0)


@dataclass
class Units:
    """A set of units that a permutation may exchange without changing the function.

    Attributes:
        name: layer that computes them.
        kind: ``channels``, ``neurons``, ``heads``, ``experts`` or ``ranks``.
        count: number of units.
        incoming: what they compute with: weights, biases, normalisation.
        outgoing: how they are used: columns of the next layers, or rows of a router.
        open: whether they are used in a way that was not followed, or are the network's output.
    """

    name: str
    kind: str
    count: int
    incoming: list[Part] = field(default_factory=list)
    outgoing: list[Part] = field(default_factory=list)
    open: bool = False
    merged: "Units | None" = None

    def root(self) -> "Units":
        """Return the set that this one was merged into, or itself."""
        return self.merged.root() if self.merged else self

    def merge(self, other: "Units") -> "Units":
        """Unite two sets whose units are added up one by one."""
        a, b = self.root(), other.root()
        if a is not b:
            a.incoming += b.incoming
            a.outgoing += b.outgoing
            a.open |= b.open
            b.merged = a
        return a


def find_units(module: nn.Module) -> list[Units]:
    """Return the sets of interchangeable units of a network, with the places of their weights.

    The network is traced with torch.fx. Channels that meet in an addition (a residual stream) are one set: its units
    are computed by all layers that write to it. Attention with the children ``q_proj``, ``k_proj``, ``v_proj``,
    ``out_proj`` and an attribute ``num_heads`` (or torch's MultiheadAttention), mixtures with the children ``experts``
    and ``router`` or ``gate``, and adapters with ``down`` and ``up`` or ``lora_A`` and ``lora_B`` are known by these
    names. A module that cannot be traced is followed child by child, and what leaves a child is left out, as are the
    outputs of the network.
    """
    search = _Search()
    _close(search.follow(module, "", [OPEN]))
    found = [units for units in search.found if units.merged is None]
    return [units for units in found if units.count > 1 and units.incoming and not units.open]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential and (_known(m) or super().is_leaf_module(m, module_qualified_name))


def _known(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or bool(_heads(module) or _router(module) or _low_rank(module))


def _heads(module: nn.Module) -> int:
    complete = all(isinstance(getattr(module, name, None), nn.Linear) for name in PROJECTIONS)  # none with an adapter
    return int(getattr(module, "num_heads", 0)) if complete else 0


def _router(module: nn.Module) -> str:
    if not isinstance(getattr(module, "experts", None), nn.ModuleList):
        return ""
    return next((name for name in ("router", "gate") if isinstance(getattr(module, name, None), nn.Linear)), "")


def _low_rank(module: nn.Module) -> tuple[str, str] | None:
    names = dict(module.named_parameters())
    for down, up in LOW_RANK:
        for suffix in ("", ".weight"):
            pair = (down + suffix, up + suffix)
            if all(name in names and names[name].ndim == 2 for name in pair):
                return pair
    return None


def _close(value: Any) -> None:
    if isinstance(value, Units):
        value.root().open = True


class _Search:
    """Follow the channels of every tensor through a network."""

    def __init__(self) -> None:
        self.found: list[Units] = []

    def follow(self, module: nn.Module, name: str, inputs: list[Any]) -> Any:
        """Return the units of a module's output, given those of its inputs."""
        leaf = _known(module) or not list(module.children())
        if leaf and (result := self._leaf(module, name, inputs)) is not NotImplemented:
            return result
        try:
            graph = _Tracer().trace(module)
        except Exception:  # whatever a forward does that fx cannot record
            for value in inputs:
                _close(value)
            for child_name, child in module.named_children():
                _close(self.follow(child, _join(name, child_name), [OPEN]))
            return OPEN
        return self._run(module, name, graph, inputs)

    def _run(self, module: nn.Module, name: str, graph: fx.Graph, inputs: list[Any]) -> Any:
        values: dict[fx.Node, Any] = {}
        waiting = list(inputs)
        for node in graph.nodes:
            arguments = [values[each] for each in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = waiting.pop(0) if waiting else None
            elif node.op == "get_attr":
                values[node] = Part((_join(name, node.target),), tuple(_attribute(module, node.target).shape))
            elif node.op == "call_module":
                child = module.get_submodule(node.target)
                values[node] = self.follow(child, _join(name, node.target), arguments)
            elif node.op == "output":
                for extra in arguments[1:]:
                    _close(extra)
                return arguments[0] if arguments else None
            else:
                values[node] = self._function(node, arguments)
        return None

    def _function(self, node: fx.Node, arguments: list[Any]) -> Any:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        units = [value.root() for value in arguments if isinstance(value, Units)]
        parts = [value for value in arguments if isinstance(value, Part)]
        if target in ("size", "dim", "getattr") or not (units or parts or OPEN in arguments):
            return None
        if not units:
            return parts[0] if parts and OPEN not in arguments else OPEN
        joins = target in ("cat", "concat", "stack") and len(units) > 1
        if target in MIXING or node.target is operator.matmul or joins or len({each.count for each in units}) > 1:
            for each in units:
                _close(each)
            return OPEN
        result = units[0]
        for each in units[1:]:
            result = result.merge(each)
        for part in parts:
            if part.shape and part.shape[-1] == result.count:
                result.incoming.append(Part(part.names, part.shape, len(part.shape) - 1))
        result.open |= any(value is OPEN for value in arguments)
        return result

    def _leaf(self, module: nn.Module, name: str, inputs: list[Any]) -> Any:
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
            return self._new(name, "neurons", module.embedding_dim, [_part(module.weight, _join(name, "weight"), 1)])
        return self._other(module, name, source)

    def _other(self, module: nn.Module, name: str, source: Any) -> Any:
        if isinstance(module, (_BatchNorm, nn.LayerNorm)) or not list(module.parameters(recurse=False)):
            if isinstance(source, Units):
                for key, parameter in module.named_parameters(recurse=False):
                    if parameter.ndim == 1 and len(parameter) == source.root().count:
                        source.root().incoming.append(_part(parameter, _join(name, key), 0))
            return source
        if all(parameter.numel() == 1 for parameter in module.parameters()):
            return source  # a trainable scalar treats all units alike
        if list(module.children()):
            return NotImplemented
        _close(source)
        return OPEN

    def _new(self, name: str, kind: str, count: int, incoming: list[Part], outgoing: list[Part] | None = None) -> Units:
        self.found.append(Units(name, kind, count, incoming, outgoing or []))
        return self.found[-1]

    def _layer(self, module: Any, name: str, kind: str, source: Any, axis: int) -> Units:
        weight = _join(name, "weight")
        _consume(source, module.weight, weight, 1 - axis)
        incoming = [_part(module.weight, weight, axis)]
        if module.bias is not None:
            incoming.append(_part(module.bias, _join(name, "bias"), 0))
        return self._new(name, kind, module.weight.shape[axis], incoming)

    def _attention(self, module: Any, name: str, inputs: list[Any]) -> Units:
        heads, incoming = module.num_heads, []
        for index, (key, tensor, thirds) in enumerate(_projections(module)):
            width = tensor.shape[0] // thirds
            shape = (thirds, heads, width // heads, *tensor.shape[1:])
            incoming.append(Part((_join(name, key),), shape, 1))
            if tensor.ndim == 2:
                _consume(inputs[min(index, len(inputs) - 1)], tensor, _join(name, key), 1)
        out, key = module.out_proj.weight, _join(name, "out_proj.weight")
        outgoing = [Part((key,), (out.shape[0], heads, out.shape[1] // heads), 1)]
        self._new(name, "heads", heads, incoming, outgoing)
        return self._layer(module.out_proj, _join(name, "out_proj"), "neurons", None, 0)

    def _mixture(self, module: Any, name: str, source: Any) -> Any:
        router = _router(module)
        gate, experts, result = getattr(module, router), list(module.experts), None
        keys = [key for key, _ in experts[0].named_parameters()]
        prefix = [_join(name, f"experts.{index}") for index in range(len(experts))]
        incoming = [Part(tuple(f"{each}.{key}" for each in prefix)) for key in keys]
        outgoing = [_part(p, _join(name, f"{router}.{key}"), 0) for key, p in gate.named_parameters()]
        if len({tuple(p.shape for p in expert.parameters()) for expert in experts}) == 1:
            self._new(name, "experts", len(experts), incoming, outgoing)
        _consume(source, gate.weight, _join(name, f"{router}.weight"), 1)
        for each, expert in zip(prefix, experts, strict=True):
            output = self.follow(expert, each, [source])
            result = result.merge(output) if isinstance(result, Units) and isinstance(output, Units) else output
        return result

    def _adapter(self, module: nn.Module, name: str, pair: tuple[str, str], source: Any) -> Any:
        down, up = (dict(module.named_parameters())[key] for key in pair)
        incoming, outgoing = [_part(down, _join(name, pair[0]), 0)], [_part(up, _join(name, pair[1]), 1)]
        self._new(name, "ranks", len(down), incoming, outgoing)
        _consume(source, down, _join(name, pair[0]), 1)
        written = [_part(up, _join(name, pair[1]), 0)]
        result = self._new(name, "neurons", len(up), written)
        for child_name, child in module.named_children():
            if isinstance(child, nn.Linear) and f"{child_name}.weight" not in pair:
                result.merge(self._layer(child, _join(name, child_name), "neurons", source, 0))
        return result


def _projections(module: Any) -> Iterator[tuple[str, Tensor, int]]:
    """Names, tensors and number of stacked projections of an attention's inputs, weights then biases."""
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
    """Record the columns of a weight that read the units; flattened maps have several columns per unit."""
    if not isinstance(source, Units):
        return
    units, size = source.root(), weight.shape[axis]
    if size % units.count:
        units.open = True
        return
    shape = (*weight.shape[:axis], units.count, size // units.count, *weight.shape[axis + 1 :])
    units.outgoing.append(Part((name,), shape, axis))


def _attribute(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
