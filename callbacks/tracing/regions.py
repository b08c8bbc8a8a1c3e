"""Compiled code as one operation: compare the outputs of a module's compiled code with its inputs and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.utils._python_dispatch import _disable_current_modes

from symbreak.callbacks.tracing.calls import tensors_in
from symbreak.callbacks.tracing.collectives import Found, axes_of
from symbreak.callbacks.tracing.event_log import EventLog
from symbreak.callbacks.tracing.memory import NOTHING, Causes, Memory, is_partial
from symbreak.callbacks.tracing.partitions import refinement, separation_ulps
from symbreak.callbacks.tracing.places import Place, Places
from symbreak.callbacks.tracing.verdict import Kind

REGION = "compiled region"
_BACKWARD = "CompiledFunctionBackward"
Governing = dict[int, list[Found]]


def compiled_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, module and attribute of the compiled code of each outermost compiled module."""
    outer: list[nn.Module] = []
    for name, module in root.named_modules():
        if any(module in each.modules() for each in outer):
            continue
        if module._compiled_call_impl is not None:
            attribute = "_compiled_call_impl"
        elif hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable"):
            attribute = "forward"
        else:
            continue
        outer.append(module)
        yield name, module, attribute


class Regions:
    """Run compiled code as it runs without a trace, and judge each forward and backward pass as one operation.

    The kernels in it are not visible. Channels of an output, and rows and columns of a weight's gradient, must be equal
    if the slices of all inputs, weights and buffers along such axes of that size are; samples, if those of the inputs
    are. Code that draws random numbers is named as such. Positions in images and in sequences are not compared.

    Args:
        root: The network.
        memory: Records of all storages.
        log: Receives the events.
        places: Place of execution.
        causes: Causes of an axis of a tensor.

    Attributes:
        names: Names of the compiled modules.
    """

    def __init__(
        self, root: nn.Module, memory: Memory, log: EventLog, places: Places, causes: Callable[[Tensor, int], Causes]
    ) -> None:
        self._memory, self._log, self._places, self._causes = memory, log, places, causes
        self._compiled = list(compiled_modules(root))
        self._code: list[Any] = []
        self._ran: list[tuple[range, str, Kind, Governing]] = []
        self.names = tuple(name or type(module).__name__ for name, module, _ in self._compiled)
        self.index = 0

    def __enter__(self) -> Regions:
        for (_, module, attribute), name in zip(self._compiled, self.names, strict=True):
            code = module.__dict__[attribute]
            self._code.append(code)
            module.__dict__[attribute] = wraps(code)(partial(self._run, name, module, code))
        return self

    def __exit__(self, *exception: object) -> None:
        for (_, module, attribute), code in zip(self._compiled, self._code, strict=True):
            module.__dict__[attribute] = code
        self._code.clear()

    def is_inside(self) -> bool:
        """Return whether an operation runs in the backward pass of compiled code."""
        node = torch._C._current_autograd_node() if self._compiled else None
        return node is not None and _BACKWARD in node.name()

    def kept(self, tensor: Tensor, axis: int) -> Causes | None:
        """Return the causes of a tensor that compiled code kept for its backward pass; None for another one.

        Where compilation is interrupted, the backward pass has nodes outside compiled code.
        """
        node: Any = torch._C._current_autograd_node() if self._ran else None
        number = -1 if node is None else node._sequence_nr()
        ran = next((each for each in self._ran if number in each[0]), None)
        if ran is None:
            return None
        _, name, kind, governing = ran
        looked = governing.get(_key(tensor, axis, is_activation=True))
        place = Place("backward", name, None)
        return self._judge(kind, looked, tensor, axis, place) if looked else NOTHING

    def _run(self, name: str, module: nn.Module, code: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run compiled code outside the trace, and compare its outputs and buffers."""
        with _disable_current_modes(), self._places.inside(name):
            given = list(tensors_in((args, kwargs)))
            held = [*module.parameters(), *module.buffers()]
            governing = self._governing(given, held)
            state, first = _random_state(held), _get_sequence_nr()
            result = code(*args, **kwargs)
            kind: Kind = "separation" if torch.equal(state, _random_state(held)) else "randomness"
            outputs = [each for each in tensors_in(result) if not any(each is other for other in given)]
            buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
            self._compare(kind, governing, outputs, buffers)
            self._ran.append((range(first, _get_sequence_nr()), name, kind, governing))
            weights = {weight.shape for weight in module.parameters()}
            for node in {each.grad_fn for each in outputs if each.grad_fn is not None}:
                node.register_hook(partial(self._on_backward, name, kind, governing, weights))
        return result

    def _on_backward(
        self,
        name: str,
        kind: Kind,
        governing: Governing,
        weights: set[torch.Size],
        gradients: Sequence[Tensor | None],
        upstream: Sequence[Tensor | None],
    ) -> None:
        """Compare the gradients of a region's inputs and weights."""
        with _disable_current_modes(), self._places.inside(name):
            more = self._governing([each for each in upstream if each is not None], [])
            both = {key: governing.get(key, []) + more.get(key, []) for key in governing.keys() | more.keys()}
            given = [each for each in gradients if each is not None]
            self._compare(
                kind,
                both,
                [each for each in given if each.shape not in weights],
                [each for each in given if each.shape in weights],
            )

    def _governing(self, activations: Sequence[Tensor], held: Sequence[Tensor]) -> Governing:
        """Return partitions and causes by size of the axis; the size is negative for the first axis of activations."""
        found: Governing = {}
        for tensors, is_activation in ((activations, True), (held, False)):
            for tensor in tensors:
                for axis in _claimed(tensor, is_activation):
                    partition = self._memory.partition(tensor, axis)
                    causes = NOTHING if partition.is_trivial else self._causes(tensor, axis)
                    found.setdefault(_key(tensor, axis, is_activation), []).append((partition, causes))
        return found

    def _compare(self, kind: Kind, governing: Governing, activations: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        for tensors, is_activation in ((activations, True), (held, False)):
            for tensor in tensors:
                self._memory.write(tensor, whole=not is_partial(tensor))
                claimed = {
                    axis: governing.get(_key(tensor, axis, is_activation)) for axis in _claimed(tensor, is_activation)
                }
                judged = {axis: self._judge(kind, looked, tensor, axis) for axis, looked in claimed.items() if looked}
                self._memory.explain(tensor, judged)

    def _judge(self, kind: Kind, looked: list[Found], tensor: Tensor, axis: int, place: Place | None = None) -> Causes:
        found = self._memory.partition(tensor, axis)
        allowed = refinement([partition for partition, _ in looked], tensor.shape[axis])
        causes = NOTHING.union(*(causes for _, causes in looked))
        if found.separated(allowed).any():
            ulps = separation_ulps(tensor, axis, found, allowed) if kind == "separation" else None
            causes |= self._log.add(kind, REGION, tensor, axis, found.groups, self.index, ulps, place=place)
        return causes


def _claimed(tensor: Tensor, is_activation: bool) -> Iterator[int]:
    """Yield the axes of samples and channels of an activation, and of rows and columns of a weight."""
    channels = tensor.ndim - 1 if is_activation and tensor.ndim == 3 else 1
    return (axis for axis in axes_of(tensor) if axis in (0, channels))


def _key(tensor: Tensor, axis: int, is_activation: bool) -> int:
    return -tensor.shape[axis] if is_activation and axis == 0 and tensor.ndim > 1 else tensor.shape[axis]


def _random_state(held: Sequence[Tensor]) -> Tensor:
    """Return the state of the generators that compiled code draws from."""
    device = next((each.device for each in held if each.is_cuda), None)
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device else [])]
    return torch.cat(states)
