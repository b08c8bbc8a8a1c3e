"""Image sources: the protocol, and images resident on the training device."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**20
"""Pixels prepared at once: several small batches share kernel launches."""


class Source(Protocol):
    """Images with labels, addressed by index."""

    labels: Tensor

    @property
    def index_device(self) -> torch.device:
        """Return the device of indices into this source."""
        ...

    def batches_per_chunk(self, batch_size: int) -> int:
        """Return the number of batches prepared at once."""
        ...

    def stream(self, requests: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each request of indices, pixels (B, C, H, W) uint8 and labels (B,) on the training device."""
        ...

    def for_evaluation(self) -> Self:
        """Return the same samples without random changes."""
        ...

    def sample(self, indices: Tensor) -> Tensor:
        """Return pixels (n, C, H, W) uint8 on the CPU, for statistics; a large set of files returns a subset."""
        ...


class ResidentImages:
    """All images as one uint8 tensor on the training device; a batch is an index operation.

    Args:
        images: Shape (N, C, H, W), uint8.
        labels: Shape (N,), int64.
        device: The training device.
    """

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device) -> None:
        self.images = images.to(device)
        self.labels = labels.to(device)

    @property
    def index_device(self) -> torch.device:
        """Return the training device."""
        return self.images.device

    def batches_per_chunk(self, batch_size: int) -> int:
        """Return the number of batches that fit into `CHUNK_ELEMENTS`, at least 1."""
        return max(1, CHUNK_ELEMENTS // (batch_size * self.images[0].numel()))

    def stream(self, requests: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels and labels of each request; `epoch` is ignored."""
        for request in requests:
            yield self.images.index_select(0, request), self.labels.index_select(0, request)

    def for_evaluation(self) -> Self:
        """Return itself: stored images have no random part."""
        return self

    def sample(self, indices: Tensor) -> Tensor:
        """Return the requested images."""
        return self.images.index_select(0, indices.to(self.images.device)).cpu()


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, from integer counts and so equal on every machine.

    Args:
        images: Shape (N, C, H, W), uint8.

    Returns:
        Mean and population standard deviation in grey levels, each (C, 1, 1) float32; a constant channel has
        deviation 1.
    """
    levels = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)
