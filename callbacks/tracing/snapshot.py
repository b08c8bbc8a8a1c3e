"""The state at the start of a training step, from which the step can be rerun."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

foreach_copy_ = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]


class Snapshot:
    """A copy of parameters, buffers and optimiser states; each copy reuses the memory of the previous one.

    Args:
        module: The network.
        optimizers: Its optimisers.
        others: Further tensors that a step changes, such as a gradient scaler's.
        with_gradients: Whether to copy existing gradients too.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        others: Sequence[Tensor] = (),
        with_gradients: bool = False,
    ) -> None:
        self._module, self._optimizers, self._others = module, optimizers, others
        self._with_gradients = with_gradients
        self._pool: dict[Hashable, Tensor] = {}
        self._kept: dict[Hashable, Any] = {}
        self._groups: list[list[dict[str, Any]]] = []

    @torch.no_grad()
    def take(self) -> None:
        """Copy the current state."""
        self._kept = self._state()
        self._groups = [[_options(group) for group in each.param_groups] for each in self._optimizers]
        tensors = {key: value.detach() for key, value in self._kept.items() if isinstance(value, Tensor)}
        for key, tensor in tensors.items():
            pooled = self._pool.get(key)
            if pooled is None or pooled.shape != tensor.shape or pooled.dtype != tensor.dtype:
                self._pool[key] = torch.empty_like(tensor)
        self._kept |= {key: self._pool[key] for key in tensors}
        if tensors:
            foreach_copy_([self._pool[key] for key in tensors], list(tensors.values()))

    @torch.no_grad()
    def restore(self) -> None:
        """Set the state to the copy; optimiser states absent from the copy are removed."""
        for optimizer, groups in zip(self._optimizers, self._groups, strict=True):
            for group, options in zip(optimizer.param_groups, groups, strict=True):
                group |= {key: value.clone() if isinstance(value, Tensor) else value for key, value in options.items()}
        now = self._state()
        for key in now.keys() - self._kept.keys():
            self._remove(key)
        pairs = []
        for key, value in self._kept.items():
            if not isinstance(value, Tensor):
                self._set(key, value)
            elif isinstance(now.get(key), Tensor):
                pairs.append((now[key], value))
            else:
                self._set(key, value.clone())
        if pairs:
            foreach_copy_([pair[0].detach() for pair in pairs], [pair[1] for pair in pairs])

    def is_current(self) -> bool:
        """Return whether the parameters equal those of the copy bit by bit."""
        now = self._module.named_parameters()
        return all(torch.equal(_bytes(self._kept["parameter", name]), _bytes(value)) for name, value in now)

    def _state(self) -> dict[Hashable, Any]:
        state: dict[Hashable, Any] = {("parameter", name): p for name, p in self._module.named_parameters()}
        state |= {("buffer", name): buffer for name, buffer in self._module.named_buffers()}
        state |= {("other", index): tensor for index, tensor in enumerate(self._others)}
        if self._with_gradients:
            parameters = self._module.named_parameters()
            state |= {("gradient", name): p.grad for name, p in parameters if p.grad is not None}
        for index, optimizer in enumerate(self._optimizers):
            for parameter, values in optimizer.state.items():
                state |= {("optimizer", index, parameter, key): value for key, value in values.items()}
        return state

    def _set(self, key: Any, value: Any) -> None:
        if key[0] == "optimizer":
            self._optimizers[key[1]].state[key[2]][key[3]] = value
        elif key[0] == "gradient":
            self._module.get_parameter(key[1]).grad = value

    def _remove(self, key: Any) -> None:
        if key[0] == "optimizer":
            values = self._optimizers[key[1]].state[key[2]]
            values.pop(key[3])
            if not values:
                del self._optimizers[key[1]].state[key[2]]
        elif key[0] == "gradient":
            self._module.get_parameter(key[1]).grad = None


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"
    }


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
