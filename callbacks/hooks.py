"""Forward hooks on the layers whose output is measured, and the order in which those layers run."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.layers import FeatureLayer, first_tensor

Observer = Callable[[FeatureLayer, Tensor], None]


class ForwardHooks:
    """Call an observer with the output of each layer when it first runs in a forward pass.

    Args:
        observe: receives the layer and its output, without autograd and autocast.

    Attributes:
        last: name of the layer that ran last before the hooks were removed; None until one has.
    """

    def __init__(self, observe: Observer) -> None:
        self.last: str | None = None
        self._observe = observe
        self._handles: list[RemovableHandle] = []
        self._ran: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._handles)

    def attach(self, layers: Iterable[FeatureLayer]) -> None:
        """Register a hook on every layer; it stays until :meth:`detach`."""
        self._ran.clear()
        self._handles = [layer.module.register_forward_hook(partial(self._on_forward, layer)) for layer in layers]

    def detach(self) -> None:
        """Remove all hooks."""
        if self._handles and self._ran:
            self.last = self._ran[-1]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _on_forward(self, layer: FeatureLayer, module: nn.Module, args: Any, output: Any) -> None:
        features = first_tensor(output)
        if features is None or layer.name in self._ran:
            return
        self._ran.append(layer.name)  # a layer that is not measured may still be the one that runs last
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            self._observe(layer, features)
