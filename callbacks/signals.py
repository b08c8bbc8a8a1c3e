"""Additive statistics of the signals through a layer, over micro-batches and ranks."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from symbreak.callbacks.functional._numerics import at_least_single, is_direct, square_sum, wide
from symbreak.callbacks.functional.propagation import directions, unit_total
from symbreak.callbacks.stacks import Samples


class Signal:
    """Sums over the inputs of a layer.

    Attributes:
        inputs: number of inputs.
        entries: number of entries of their outputs.
        gradient_entries: number of entries of the gradient with respect to the outputs.
        present: number of outputs that are not 0; None if it is to be counted from the norms.
    """

    def __init__(self) -> None:
        self.inputs = self.entries = self.gradient_entries = 0
        self.present: int | None = None
        self.direction: Tensor | None = None  # sum of the outputs as unit vectors
        self.norms: list[Tensor] = []  # of the outputs
        self.gradient: list[Tensor] = []  # sums of squares

    def add(self, samples: Samples) -> None:
        """Add the outputs of some inputs."""
        if samples.is_direct:
            norms = samples.norms
            total = unit_total(samples.by_channel, norms).flatten()
        else:
            total, norms = directions(samples.by_channel.transpose(0, 1).flatten(1))
        self.direction = total if self.direction is None else self.direction + total
        self.norms.append(norms)
        self.inputs += len(samples)
        self.entries += samples.features.numel()

    def add_gradient(self, gradient: Tensor) -> None:
        """Add the gradient with respect to some outputs."""
        if is_direct(gradient):
            self.gradient.append(torch.linalg.vector_norm(gradient, dtype=wide(gradient.device)))
        else:
            self.gradient.append(square_sum(at_least_single(gradient)).sqrt())
        self.gradient_entries += gradient.numel()

    def values(self) -> list[Tensor]:
        """Return ||direction||, the norms of the gradients, and the norms of the outputs."""
        assert self.direction is not None
        return [torch.linalg.vector_norm(self.direction), *self.gradient, *self.norms]

    def reduced(self, sums: Tensor, has_gradient: bool) -> "Signal":
        """Return the signal of all ranks from the sum of :meth:`flat` over ranks."""
        assert self.direction is not None
        found = Signal()
        found.direction = sums[: self.direction.numel()]
        square, gradient, *counts = sums[self.direction.numel() :].unbind()
        found.norms, found.gradient = [square.sqrt()], [gradient.sqrt()] if has_gradient else []
        present, inputs, entries, gradient_entries = map(int, torch.stack(counts).tolist())
        found.present, found.inputs, found.entries = present, inputs, entries
        found.gradient_entries = gradient_entries if has_gradient else 0
        return found

    def flat(self) -> Tensor:
        """Return all sums in one tensor."""
        assert self.direction is not None
        norms = torch.cat(self.norms)
        zero = norms.new_zeros(())
        gradient = torch.stack(self.gradient).square().sum() if self.gradient else zero
        counts = norms.new_tensor([self.inputs, self.entries, self.gradient_entries])
        return torch.cat([self.direction, norms.square().sum()[None], gradient[None], (norms != 0).sum()[None], counts])


def sum_over_ranks(signals: Mapping[str, Signal], world_size: int, device: torch.device) -> dict[str, Signal]:
    """Sum signals over all ranks, and return those that every rank has with equal sizes.

    Every rank must pass the same names in the same order. One reduction finds the signals that all ranks can sum; a
    second one sums them. A layer that ran on only some ranks, or on inputs of another size, is left out without a
    deadlock.
    """
    if world_size == 1 or not dist.is_initialized():
        return {name: signal for name, signal in signals.items() if signal.direction is not None}
    sizes = [0 if each.direction is None else each.direction.numel() for each in signals.values()]
    sizes += [len(each.gradient) > 0 for each in signals.values()]
    extremes = torch.tensor([sizes, [-size for size in sizes]], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MIN)
    low, high = extremes.tolist()
    common = [name for name, a, b in zip(signals, low, high, strict=False) if a == -b > 0]
    with_gradient = {name for name, present in zip(signals, low[len(signals) :], strict=True) if present}
    if not common:
        return {}
    parts = [signals[name].flat() for name in common]
    total = torch.cat(parts)
    dist.all_reduce(total)
    sums = dict(zip(common, total.split([len(part) for part in parts]), strict=True))
    return {name: signals[name].reduced(part, name in with_gradient) for name, part in sums.items()}
