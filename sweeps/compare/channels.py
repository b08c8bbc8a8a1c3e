"""Find the groups of channels of a network that must be permuted together, by tracing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from symbreak.sweeps.errors import UsageError


@dataclass(frozen=True)
class Group:
    """Channels that share one permutation, in the order in which the network computes them.

    Attributes:
        size: Number of channels.
        axes: (name in the state_dict, axis) of every tensor that is indexed by these channels.
    """

    size: int
    axes: tuple[tuple[str, int], ...]


def channel_groups(network: nn.Module) -> list[Group]:
    """Return the groups of channels that may be permuted, found by tracing the network with torch.fx.

    Channels of the input and output are not permuted, nor are channels whose layout tracing cannot follow (grouped
    convolutions, reshapes that mix channels with space).

    Raises:
        UsageError: If the network's computation cannot be traced.
    """
    prefix, module, graph = _traced(network)
    flow = _ChannelFlow(module, prefix)
    for node in graph.nodes:
        flow.visit(node)
    return flow.groups()


def _traced(network: nn.Module) -> tuple[str, nn.Module, fx.Graph]:
    """Trace the network, or the largest of its children that can be traced."""
    candidates = [("", network)]
    for name, child in sorted(network.named_children(), key=lambda item: -sum(p.numel() for p in item[1].parameters())):
        candidates.append((f"{name}.", child))
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for prefix, module in candidates:
            try:
                return prefix, module, _ChannelTracer().trace(module)
            except Exception:  # tracing data-dependent control flow may raise any exception
                continue
    finally:
        for module, training in modes.items():
            module.training = training
    raise UsageError(f"the channels of {type(network).__name__} cannot be matched: torch.fx cannot trace its forward")


class _ChannelTracer(fx.Tracer):
    """Tracer whose leaves are layers with their own parameters; it traces into other modules that have children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm)):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not any(m.children())


class _ChannelFlow:
    """Propagation of channel groups through a graph, as a union-find; group 0 is never permuted."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        self.modules = dict(module.named_modules())
        self.prefix = prefix
        self.parent, self.sizes = [0], [0]
        self.axes: list[tuple[int, str, int]] = []
        self.group_of: dict[fx.Node, int] = {}

    def groups(self) -> list[Group]:
        axes: dict[int, list[tuple[str, int]]] = {}
        for group, name, axis in self.axes:
            axes.setdefault(self._root(group), []).append((name, axis))
        axes.pop(self._root(0), None)
        return [Group(self.sizes[group], tuple(found)) for group, found in sorted(axes.items())]

    def visit(self, node: fx.Node) -> None:
        inputs = [self.group_of[source] for source in node.all_input_nodes if source in self.group_of]
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            self.group_of[node] = 0
        elif node.op == "output":
            self._union([0, *inputs])
        elif isinstance(module, (_ConvNd, nn.Linear)):
            self.group_of[node] = self._layer(str(node.target), module, inputs[0])
        elif inputs:
            self.group_of[node] = self._union(inputs)
            if module is not None:
                self._per_channel(str(node.target), module, self.group_of[node])

    def _layer(self, name: str, layer: nn.Module, source: int) -> int:
        outputs, inputs = (0, 1) if not isinstance(layer, _ConvTransposeNd) else (1, 0)
        weight: Any = layer.weight
        if getattr(layer, "groups", 1) > 1:
            self._union([0, source])
            return 0
        if self._size(source) == weight.shape[inputs]:
            self.axes.append((source, f"{self.prefix}{name}.weight", inputs))
        else:
            self._union([0, source])
        self.parent.append(len(self.parent))
        self.sizes.append(weight.shape[outputs])
        group = self.parent[-1]
        self.axes.append((group, f"{self.prefix}{name}.weight", outputs))
        if layer.bias is not None:
            self.axes.append((group, f"{self.prefix}{name}.bias", 0))
        return group

    def _per_channel(self, name: str, module: nn.Module, group: int) -> None:
        for key, tensor in module.state_dict().items():
            if tensor.ndim == 1 and len(tensor) == self._size(group):
                self.axes.append((group, f"{self.prefix}{name}.{key}", 0))
            elif tensor.ndim:
                self._union([0, group])

    def _size(self, group: int) -> int:
        return self.sizes[self._root(group)]

    def _root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def _union(self, groups: list[int]) -> int:
        """Merge groups into the earliest, or into group 0 if their sizes differ."""
        roots = {self._root(group) for group in groups}
        if len({self.sizes[root] for root in roots}) > 1:
            roots.add(0)
        first = min(roots)
        for root in roots:
            self.parent[root] = first
        return first
