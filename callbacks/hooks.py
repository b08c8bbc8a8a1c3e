"""Forward hooks on the measured layers, and the order in which those layers run."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.layers import FeatureLayer, first_tensor
from symbreak.callbacks.precision import exact_products
from symbreak.callbacks.weights import gathered

Observer = Callable[[FeatureLayer, Tensor], None]


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
        self._handles: list[RemovableHandle] = []
        self._ran: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._handles)

    def attach(self, layers: Iterable[FeatureLayer]) -> None:
        """Register hooks, until :meth:`detach`, on every layer whose hooks stay outside compiled code."""
        self._ran.clear()
        self._handles = [
            layer.module.register_forward_hook(partial(self._on_forward, layer)) for layer in layers if layer.hookable
        ]

    def detach(self) -> None:
        """Remove all hooks."""
        if self._handles and self._ran:
            self.last = next(reversed(self._ran))
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _on_forward(self, layer: FeatureLayer, module: nn.Module, args: Any, output: Any) -> None:
        features = first_tensor(output)
        if features is None:
            return
        observe = self._observe_again
        if torch._C._current_graph_task_id() == -1:  # no backward pass is running in this thread
            observe = None if layer.name in self._ran else self._observe
            self._ran.pop(layer.name, None)
            self._ran[layer.name] = None  # ordered by latest run: a layer used twice may be the output layer
        if observe is not None and layer.measured:
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False), exact_products():
                observe(layer, gathered(features))
