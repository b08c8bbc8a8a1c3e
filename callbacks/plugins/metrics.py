"""Activation statistics as torchmetrics Metrics.

Every state is additive (or a minimum or maximum), so that values over micro-batches and ranks equal those of one device
on all data. ``update`` takes the output of a layer. Only ``compute`` may synchronise with the device.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from symbreak.callbacks.functional._numerics import wide
from symbreak.callbacks.functional.propagation import cosine_of_sum, direction_sum, mean_square
from symbreak.callbacks.functional.symmetry import scaled_sums


class MeanSquare(Metric):
    """Mean of x^2 over all entries: ``functional.mean_square`` over all data."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Add a tensor of any shape."""
        self.total = self.total + mean_square(x) * x.numel()
        self.count = self.count + x.numel()

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.total / self.count


class InputCosine(Metric):
    """Mean cosine between the features of different inputs: ``functional.input_cosine`` over all data."""

    full_state_update = False
    total: Tensor
    present: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("present", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add the features (N, ...) of N inputs; the shape per input must not change between updates."""
        total, present = direction_sum(features)
        self.total = self.total + total
        self.present = self.present + present
        self.count = self.count + len(features)

    def compute(self) -> Tensor:
        """Return the mean over all pairs of inputs so far; NaN for fewer than two inputs."""
        return cosine_of_sum(self.total, self.present, self.count)


class FeatureAsymmetry(Metric):
    """Asymmetry of the channels: ``functional.asymmetry`` over all data.

    Args:
        dim: the axis of the channels.
        kwargs: arguments of torchmetrics' Metric.
    """

    full_state_update = False
    spread: Tensor
    square: Tensor

    def __init__(self, dim: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.add_state("spread", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("square", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add the output of a layer."""
        spread, square, scale = scaled_sums(features, self.dim)
        self.spread = self.spread + spread / scale.square()
        self.square = self.square + square / scale.square()

    def compute(self) -> Tensor:
        """Return the asymmetry so far; exactly 0 while all channels were bitwise equal."""
        return torch.where(self.square == 0, 0, (self.spread / self.square).sqrt().clamp(max=1))


class FeatureCorrelation(Metric):
    """Mean absolute correlation over pairs of channels: ``functional.feature_correlation`` over all data.

    The states are the moments of the channels, (C,) and (C, C), and their ranges, which identify constant channels.

    Args:
        dim: the axis of the channels.
        kwargs: arguments of torchmetrics' Metric.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, dim: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("products", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("low", torch.tensor(torch.inf), dist_reduce_fx="min")
        self.add_state("high", torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, features: Tensor) -> None:
        """Add the output of a layer; the number of channels must not change between updates."""
        rows = features.detach().movedim(self.dim, 0).flatten(1).to(wide(features.device))
        self.count = self.count + rows.shape[1]
        self.total = self.total + rows.sum(1)
        self.products = self.products + rows @ rows.T
        self.low = torch.minimum(self.low, rows.amin(1))
        self.high = torch.maximum(self.high, rows.amax(1))

    def compute(self) -> Tensor:
        """Return the mean over pairs so far; a constant channel counts as correlation 1."""
        covariance = self.products - torch.outer(self.total, self.total) / self.count
        varies = self.low < self.high
        norm = torch.where(varies, covariance.diagonal().clamp(min=0).sqrt(), 1)
        correlation = torch.where(
            varies[:, None] & varies, (covariance / torch.outer(norm, norm)).abs().clamp(max=1), 1
        )
        channels = len(varies)
        return (correlation.sum() - channels) / (channels * (channels - 1)) if channels > 1 else correlation.mean()
