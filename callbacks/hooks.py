"""Forward hooks on the measured layers, shared by all callbacks, and the order in which those layers run."""

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from symbreak.callbacks.layers import FeatureLayer, first_tensor
from symbreak.callbacks.precision import exact_products
from symbreak.callbacks.stacks import Features
from symbreak.callbacks.weights import gathered

Observer = Callable[[FeatureLayer, Features], None]


class ForwardHooks:
    """Call an observer with the output of each layer when it first runs in a forward pass.

    Forward passes that activation checkpointing recomputes during backward go to the second observer instead.

    Args:
        observe: receives the layer and its output, without autograd and autocast.
        observe_again: receives the same for each run during a backward pass.

    Attributes:
        last: name of the layer that ran last before the hooks were removed; None until one has.
    """

    def __init__(self, observe: Observer, observe_again: Observer) -> None:
        self.last: str | None = None
        self._observe, self._observe_again = observe, observe_again
        self._attached: list[FeatureLayer] = []
        self._ran: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._attached)

    def attach(self, layers: Iterable[FeatureLayer]) -> None:
        """Watch, until :meth:`detach`, every layer whose hooks stay outside compiled code."""
        self._ran.clear()
        self._attached = [layer for layer in layers if layer.hookable]
        for layer in self._attached:
            _hook_of(layer.module).watchers[self] = layer

    def detach(self) -> None:
        """Stop watching."""
        if self._attached and self._ran:
            self.last = next(reversed(self._ran))
        for layer in self._attached:
            _hook_of(layer.module).remove(self)
        self._attached = []

    def observer(self, layer: FeatureLayer) -> Observer | None:
        """Note that a layer has run; return who receives its output."""
        observe = self._observe_again
        if torch._C._current_graph_task_id() == -1:  # no backward pass is running in this thread
            observe = None if layer.name in self._ran else self._observe
            self._ran.pop(layer.name, None)
            self._ran[layer.name] = None  # ordered by latest run: a layer used twice may be the output layer
        return observe if layer.measured else None


class _Hook:
    """The one forward hook of a module, which exists while it is watched."""

    def __init__(self, module: nn.Module) -> None:
        self.watchers: dict[ForwardHooks, FeatureLayer] = {}
        self._handle = module.register_forward_hook(self._on_forward)

    def remove(self, watcher: ForwardHooks) -> None:
        self.watchers.pop(watcher, None)
        if not self.watchers:
            self._handle.remove()

    def __bool__(self) -> bool:
        return bool(self.watchers)

    def _on_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None:
            return
        found = [(watcher.observer(layer), layer) for watcher, layer in self.watchers.items()]
        observers = [(observe, layer) for observe, layer in found if observe is not None]
        if observers:
            with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False), exact_products():
                tensor = gathered(tensor)
                features = Features(tensor, observers[0][1].channel_dim(tensor))
                for observe, layer in observers:
                    observe(layer, features)


_HOOKS: WeakKeyDictionary[nn.Module, _Hook] = WeakKeyDictionary()


def _hook_of(module: nn.Module) -> _Hook:
    if not _HOOKS.get(module):
        _HOOKS[module] = _Hook(module)
    return _HOOKS[module]
