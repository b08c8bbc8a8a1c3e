"""Find the interchangeable units of a network (channels, neurons, heads, experts, ranks) and their weights."""

import operator
from typing import Any

from torch import Tensor, fx, nn

from symbreak.callbacks.functional.unit_layers import OPEN, UnitLayers, close, join, known
from symbreak.callbacks.functional.unit_sets import Part, Units

MIXING = {"matmul", "bmm", "einsum", "scaled_dot_product_attention", "mm", "baddbmm", "softmax"}
ORDERED = {"flip", "roll", "cumsum", "cumprod", "sort", "argsort", "gather", "index_select", "tile", "repeat"}
ORDERED |= {"channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "local_response_norm", "repeat_interleave"}
VIEWS = {"view", "reshape", "unflatten"}


def find_units(module: nn.Module) -> list[Units]:
    """Return the sets of interchangeable units of a network, with their incoming and outgoing weights.

    The network is traced with torch.fx. Channels joined by an addition (a residual stream) form one set: its units
    are computed by all layers that write to it. Three kinds of module are recognised by names: attention with the
    children ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj`` and an attribute ``num_heads`` (or torch's
    MultiheadAttention), mixtures with the children ``experts`` and ``router`` or ``gate``, and adapters of a linear map
    with ``down`` and ``up`` or ``lora_A`` and ``lora_B``. A module that cannot be traced is searched child by child.
    The outputs of its children and of the network are left out.
    """
    search = _Search()
    close(search.follow(module, "", [OPEN]))
    found = [units for units in search.layers.found if units.merged is None]
    return [units for units in found if units.count > 1 and units.incoming and not units.open]


class _UnitTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential and (known(m) or super().is_leaf_module(m, module_qualified_name))


class _Search:
    """Track the units of every tensor through a network."""

    def __init__(self) -> None:
        self.layers = UnitLayers(self.follow)

    def follow(self, module: nn.Module, name: str, inputs: list[Any]) -> Any:
        """Return the units of a module's output, given those of its inputs."""
        leaf = known(module) or not list(module.children())
        if leaf and (result := self.layers.output(module, name, inputs)) is not NotImplemented:
            return result
        before = [(each, dict(vars(each))) for each in module.modules()]
        try:
            graph = _UnitTracer().trace(module)
        except Exception:  # fx raises many types of error
            for value in inputs:
                close(value)
            for child_name, child in module.named_children():
                close(self.follow(child, join(name, child_name), [OPEN]))
            return OPEN
        finally:  # fx leaves constants on the module, and forward may leave proxies
            for each, attributes in before:
                vars(each).clear()
                vars(each).update(attributes)
        return self._run(module, name, graph, inputs)

    def _run(self, module: nn.Module, name: str, graph: fx.Graph, inputs: list[Any]) -> Any:
        values: dict[fx.Node, Any] = {}
        waiting = list(inputs)
        stored: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        stored |= dict(module.named_buffers(remove_duplicate=False))
        for node in graph.nodes:
            arguments = [values[each] for each in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = waiting.pop(0) if waiting else None
            elif node.op == "get_attr":
                tensor = stored.get(str(node.target))
                values[node] = OPEN if tensor is None else Part((join(name, node.target),), tuple(tensor.shape))
            elif node.op == "call_module":
                child = module.get_submodule(node.target)
                values[node] = self.follow(child, join(name, node.target), arguments)
            elif node.op == "output":
                for extra in arguments[1:]:
                    close(extra)
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
        mixes = target in MIXING | ORDERED or node.target is operator.matmul or _splits(node, target, units[0].count)
        if mixes or joins or len({each.count for each in units}) > 1:
            for each in units:
                close(each)
            return OPEN
        result = units[0]
        for each in units[1:]:
            result = result.merge(each)
        for part in parts:
            if part.shape and part.shape[-1] == result.count:
                result.incoming.append(Part(part.names, part.shape, len(part.shape) - 1))
        result.open |= any(value is OPEN for value in arguments)
        return result


def _splits(node: fx.Node, target: str, count: int) -> bool:
    """Return whether a view may cut the axis of ``count`` units into several axes."""
    sizes = [size for each in node.args[1:] for size in (each if isinstance(each, tuple | list) else [each])]
    numbers = [size for size in sizes if isinstance(size, int)]
    return target in VIEWS and count not in numbers and any(1 < size < count and not count % size for size in numbers)
