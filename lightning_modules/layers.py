"""Layers shared by several networks: trainable scalars and regularisers."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from symbreak.lightning_modules.checks import check_choice, check_range

Regularizer = Literal["dropout", "disout"]


class ScalarBias(nn.Module):
    """x + b with one trainable scalar b = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        return x + self.bias


class ScalarScale(nn.Module):
    """s * x with one trainable scalar s = 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        return self.scale * x


class Disout(nn.Module):
    """Feature-map distortion: some blocks of a feature map become noise instead of 0.

    In training, y = (k * x + (1 - k) * alpha * std(x) * N(0, 1)) / mean(k), with k = 0 on square blocks and 1
    elsewhere, std(x) over the whole batch and detached. A block starts at each of the (H - b + 1)(W - b + 1) positions
    with probability rate * H * W / b^2 / ((H - b + 1)(W - b + 1)), so that about ``rate`` of the
    entries are distorted. In evaluation, y = x.

    Difference from the source: the source multiplies alpha by a mean of the next layer's largest weights (its code
    uses 0.01 if that layer is unknown). Here alpha is relative to std(x) alone: the layer does not depend on the next
    one, and zero weights do not disable the distortion.

    Source: Tang et al., "Beyond Dropout: Feature Map Distortion to Regularize Deep Neural Networks", AAAI 2020.

    Args:
        rate: share of entries to distort, at least 0 and below 1.
        block_size: side b of the blocks, clipped to the feature map; 1 for inputs that are not (N, C, H, W).
        alpha: size of the noise relative to the features' standard deviation.
    """

    def __init__(self, rate: float, block_size: int = 3, alpha: float = 1.0) -> None:
        super().__init__()
        check_range("rate", rate, 0, 1)
        check_range("block_size", block_size, 1)
        check_range("alpha", alpha, 0)
        self.rate, self.block_size, self.alpha = rate, block_size, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        if not self.training or self.rate == 0:
            return x
        kept = 1 - self._blocks(x)
        noise = self.alpha * x.detach().std() * torch.randn_like(x)
        return (kept * x + (1 - kept) * noise) / kept.mean().clamp_min(1 / kept.numel())

    def _blocks(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            return torch.bernoulli(torch.full_like(x, self.rate))
        height, width = x.shape[2:]
        side = min(self.block_size, height, width)
        starts = (*x.shape[:2], height - side + 1, width - side + 1)
        rate = min(1.0, self.rate * height * width / side**2 / (starts[2] * starts[3]))
        seeds = torch.bernoulli(torch.full(starts, rate, dtype=x.dtype, device=x.device))
        return functional.max_pool2d(functional.pad(seeds, [side - 1] * 4), side, stride=1)


def make_regularizer(kind: Regularizer, rate: float) -> nn.Module:
    """Return dropout or `Disout` of the given rate, or the identity if the rate is 0.

    Raises:
        ValueError: for an unknown kind or a rate outside [0, 1].
    """
    check_choice("regularizer", kind, get_args(Regularizer))
    check_range("dropout", rate, 0, 1)
    if rate == 0:
        return nn.Identity()
    return nn.Dropout(rate) if kind == "dropout" else Disout(rate)
