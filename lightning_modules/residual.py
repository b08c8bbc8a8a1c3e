"""Residual branches of any network, found in its traced graph and not by name."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

WEIGHT_LAYERS = (_ConvNd, nn.Linear, nn.MultiheadAttention)
NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MULTIPLY = {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"}


@dataclass(frozen=True)
class Branch:
    """One residual branch, the layers whose output is added to a shortcut.

    Attributes:
        layers: names of its convolutions, linear and attention layers, in execution order.
        last: name of the layer whose output is added; if its weight is 0, the block equals its shortcut.
        gate: name of the parameter that multiplies that output (a scale, or a norm's weight), or None.
    """

    layers: tuple[str, ...]
    last: str
    gate: str | None


@dataclass(frozen=True)
class Structure:
    """Residual branches of a network and the name of its output layer."""

    branches: tuple[Branch, ...]
    head: str | None


def find_structure(module: nn.Module) -> Structure:
    """Trace ``module`` and find its residual branches and its head.

    A branch is one operand of an addition whose two operands share an ancestor: the one with more layers or, in a
    tie, larger kernels. Equal operands form no branch. If torch.fx cannot trace the forward, each child is searched
    separately and the head is the weight layer registered last.
    """
    graph = _trace(module)
    if graph is not None:
        flow = _Flow(module, graph)
        return Structure(tuple(dict.fromkeys(flow.branches())), flow.head())
    branches: list[Branch] = []
    for name, child in module.named_children():
        for branch in find_structure(child).branches:
            layers = tuple(f"{name}.{layer}" for layer in branch.layers)
            gate = f"{name}.{branch.gate}" if branch.gate else None
            branches.append(Branch(layers, f"{name}.{branch.last}", gate))
    layers = [name for name, layer in module.named_modules() if name and isinstance(layer, WEIGHT_LAYERS)]
    return Structure(tuple(branches), layers[-1] if layers else None)


class _Tracer(fx.Tracer):
    """Treat weight and norm layers as leaves, and trace into every other module that has children."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in module.named_parameters()}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # fx searches all parameters at each access, which takes minutes for thousands of scalars.
        name = self.names.get(id(attr_val))
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (*WEIGHT_LAYERS, *NORM_LAYERS)):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not any(m.children())


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode, without dropout and checkpointing, and restore each module's mode afterwards."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training


def _trace(module: nn.Module) -> fx.Graph | None:
    try:
        with _evaluation(module):
            return _Tracer(module).trace(module)
    except Exception:  # tracing data-dependent control flow can raise anything
        return None


class _Flow:
    """A traced graph; per node, the layers it runs and a bit mask of its ancestors, including itself."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.modules = dict(module.named_modules())
        self.nodes = list(graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.layers = {i: names for i, node in enumerate(self.nodes) if (names := self._run_by(node))}
        self.origin: list[int] = []
        for i, node in enumerate(self.nodes):
            mask = 1 << i
            for source in node.all_input_nodes:
                mask |= self.origin[self.index[source]]
            self.origin.append(mask)

    def branches(self) -> Iterator[Branch]:
        for node in self.nodes:
            inputs = [a for a in node.args if isinstance(a, fx.Node)]
            if node.target not in _ADD or len(inputs) != 2:
                continue
            first, second = (self.origin[self.index[a]] for a in inputs)
            sides = [(self._size(first & ~second), inputs[0]), (self._size(second & ~first), inputs[1])]
            if not first & second or sides[0][0] == sides[1][0]:
                continue
            end = max(sides, key=lambda side: side[0])[1]
            side = first & ~second if end is inputs[0] else second & ~first
            found = self._walk_back(end, side)
            if found:
                yield Branch(self._names(side), *found)

    def head(self) -> str | None:
        found = self._walk_back(self.nodes[-1], self.origin[-1])
        return found[0] if found else None

    def _run_by(self, node: fx.Node) -> tuple[str, ...]:
        """Return the weight layers that a node calls, or whose weights it takes as inputs."""
        if self._is(node, nn.MultiheadAttention):
            return (str(node.target), f"{node.target}.out_proj")
        if self._is(node, WEIGHT_LAYERS):
            return (str(node.target),)
        owners = (str(s.target).removesuffix(".weight") for s in node.all_input_nodes if s.op == "get_attr")
        return tuple(name for name in owners if isinstance(self.modules.get(name), WEIGHT_LAYERS))

    def _names(self, side: int) -> tuple[str, ...]:
        return tuple(name for i, names in self.layers.items() if side >> i & 1 for name in names)

    def _size(self, side: int) -> tuple[int, int]:
        """Return an operand's number of layers and the total number of taps of their kernels."""
        names = self._names(side)
        weights = [getattr(self.modules[name], "weight", None) for name in names]
        return len(names), sum(w[0, 0].numel() for w in weights if isinstance(w, torch.Tensor))

    def _walk_back(self, node: fx.Node, side: int) -> tuple[str, str | None] | None:
        """Return the last weight layer before ``node`` on the main path, and the gate between the two."""
        gate = None
        while self.index[node] not in self.layers:
            gate = gate or self._gate(node)
            # A gate computed from the features (squeeze-and-excitation) runs after them: take the earliest input.
            sources = [s for s in node.all_input_nodes if s.op != "get_attr" and side >> self.index[s] & 1]
            if not sources:
                return None
            node = min(sources, key=self.index.__getitem__)
        return self.layers[self.index[node]][-1], gate

    def _gate(self, node: fx.Node) -> str | None:
        if self._is(node, NORM_LAYERS):
            weight = getattr(self.modules[str(node.target)], "weight", None)
            return None if weight is None else f"{node.target}.weight"
        attributes = [str(s.target) for s in node.all_input_nodes if s.op == "get_attr"]
        return attributes[0] if node.target in _MULTIPLY and attributes else None

    def _is(self, node: fx.Node, types: type | tuple[type, ...]) -> bool:
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], types)
