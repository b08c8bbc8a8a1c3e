"""Weights of one shape as one tensor, and the output of a layer, each prepared once for all measuring callbacks."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from symbreak.callbacks.functional._numerics import is_direct, wide, widened
from symbreak.callbacks.functional.channel_products import ChannelProducts, channel_products
from symbreak.callbacks.layers import WeightLayer
from symbreak.callbacks.measurements import Row

Mark = TypeVar("Mark", bound=Hashable)


class Sums(NamedTuple):
    """Statistics on the device, and the function that turns them into measures on the host.

    Attributes:
        values: tensors with an entry per layer; of any size if there is one layer.
        measures: takes all numbers of one layer and returns its measures by name.
    """

    values: Sequence[Tensor]
    measures: Callable[..., Row]


class WeightStack:
    """Weights of one shape.

    Attributes:
        names: their layers.
        values: (L, C_out, C_in, ...).
        wide: the same in float64, or None if they are too large.
        exact: whether a mean of equal entries of ``wide`` is exact.
    """

    def __init__(self, names: Sequence[str], values: Tensor) -> None:
        self.names, self.values = names, values
        self.wide = widened(values) if is_direct(values) else None
        self.exact = values.element_size() < 8


def stacks(layers: Sequence[tuple[WeightLayer, Mark]]) -> Iterator[tuple[WeightStack, Mark]]:
    """Read weights, and yield those with one shape and one mark together, as many as are computed at once.

    Large and sharded weights come alone, so that one copy of them is in memory at a time.
    """
    pending: dict[tuple[Any, Any, Any, Mark], tuple[list[str], list[Tensor]]] = {}
    for layer, mark in layers:
        weight = layer.weight().detach()
        key = (weight.shape, weight.dtype, weight.device, mark)
        names, group = pending.setdefault(key, ([], []))
        if group and (layer.sharded or not is_direct(weight, len(group) + 1)):
            yield _stacked(*pending.pop(key)), mark
            names, group = pending.setdefault(key, ([], []))
        names.append(layer.name)
        group.append(weight)
        if layer.sharded or not is_direct(weight):
            yield _stacked(*pending.pop(key)), mark
    for key in list(pending):
        yield _stacked(*pending.pop(key)), key[-1]


def _stacked(names: list[str], group: list[Tensor]) -> WeightStack:
    return WeightStack(names, torch.stack(group) if len(group) > 1 else group[0][None])


class Features:
    """The output of a layer; what several callbacks need is computed once.

    Args:
        output: the output.
        channel_dim: its axis of channels.
    """

    def __init__(self, output: Tensor, channel_dim: int) -> None:
        self.output, self.channel_dim = output, channel_dim
        self._samples: dict[int | None, Samples] = {}

    def first(self, samples: int | None) -> "Samples":
        """Return the first samples of the batch; None for all."""
        if samples not in self._samples:
            self._samples[samples] = Samples(self.output.detach()[:samples], self.channel_dim)
        return self._samples[samples]


class Samples:
    """The features of some samples.

    Attributes:
        features: as the layer returned them.
        channel_dim: axis of the channels.
        is_direct: whether to compute in float64 at once.
    """

    def __init__(self, features: Tensor, channel_dim: int) -> None:
        self.features, self.channel_dim = features, channel_dim % features.ndim
        self.is_direct = is_direct(features)
        self.exact = features.element_size() < 8

    def __len__(self) -> int:
        return len(self.features)

    @property
    def channels(self) -> int:
        """Number of channels; a vector per sample has its entries as channels."""
        return self.features.shape[self.channel_dim]

    @cached_property
    def by_channel(self) -> Tensor:
        """The features (C, N, S) of N samples, in float64 if they are small."""
        first = self.features.movedim(self.channel_dim, 0)
        first = first.flatten(2) if first.ndim > 2 else first[..., None]
        if not self.is_direct:
            return first
        return first.to(wide(first.device), memory_format=torch.contiguous_format)

    @cached_property
    def products(self) -> ChannelProducts | None:
        """Products of the channels; only for large features on a CPU."""
        return channel_products(self.by_channel)

    @cached_property
    def norms(self) -> Tensor:
        """The norm of each sample (N,), in float64; only for small features."""
        return torch.linalg.vector_norm(self.by_channel, dim=(0, 2))
