"""Data loaders: batches on the training device, resumable within an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from symbreak.datamodules.augmentation import Appearance, Augmentation, Draws
from symbreak.datamodules.order import TrainingOrder
from symbreak.datamodules.sources import Source

Batch = tuple[Tensor, Tensor]


def prepared_ahead(chunks: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Prepare the next chunk on a separate CUDA stream while the current one is in use."""
    if device.type != "cuda":
        yield from chunks
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # wait until the images are copied

    def prepare() -> Batch | None:
        with torch.cuda.stream(stream):
            return next(chunks, None)

    following = prepare()
    while following is not None:
        chunk = following
        torch.cuda.current_stream(device).wait_stream(stream)
        for tensor in chunk:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(device))
        following = prepare()
        yield chunk


class TrainingLoader:
    """Augmented training batches `(images, labels)`: float32 (B, C, H, W) and int64 (B,), or (B, classes) with mixup.

    Iterators are lazy: epoch and position are read at the first batch, because Lightning creates the iterator before it
    sets the epoch. No global generator is used.

    Args:
        source: Source of the pixels.
        order: Samples of each batch; Lightning finds it as `sampler` and sets its epoch.
        augmentation: Random draws for each sample.
        appearance: Applies the draws to the pixels.
        image_size: Height and width in pixels.
        augmentation_seed: Seed of the draws.
    """

    batch_sampler = None

    def __init__(
        self,
        source: Source,
        order: TrainingOrder,
        augmentation: Augmentation,
        appearance: Appearance,
        image_size: int,
        augmentation_seed: int,
    ) -> None:
        self.source = source
        self.sampler = order
        self.augmentation = augmentation
        self.appearance = appearance
        self.image_size = image_size
        self.augmentation_seed = augmentation_seed
        self._epoch = 0
        self._position = 0
        self._resuming = False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.sampler.epoch
        start = self._position if self._resuming and self._epoch == epoch else 0
        self._epoch, self._position, self._resuming = epoch, start, False
        if start >= len(self):
            return
        chunk_size = self.source.batches_per_chunk(self.sampler.batch_size)
        # Resume on a chunk boundary: a batch's memory alignment affects rounding.
        first = start // chunk_size * chunk_size
        size = self.sampler.batch_size
        chunks = prepared_ahead(self._chunks(epoch, first, chunk_size), self.appearance.mean.device)
        batches = (batch for chunk in chunks for batch in zip(*(each.split(size) for each in chunk), strict=True))
        for batch in islice(batches, start - first, None):
            self._position += 1
            yield batch

    def _chunks(self, epoch: int, first: int, chunk_size: int) -> Iterator[Batch]:
        order, device = self.sampler, self.source.index_device
        seed = self.augmentation_seed
        draws = self.augmentation.draw(len(self.source.labels), self.image_size, order.indices, seed, epoch)
        draws = {name: draw.to(device) for name, draw in draws.items()}
        chunks = [rows.flatten() for rows in order.batches().to(device)[first:].split(chunk_size)]
        partners = [draws["partner"][rows] for rows in chunks] if "partner" in draws else None
        requests = chunks if partners is None else [torch.cat(pair) for pair in zip(chunks, partners, strict=True)]
        for rows, (pixels, labels) in zip(requests, self.source.stream(requests, epoch), strict=True):
            yield self._prepare(pixels, labels, {name: draw.index_select(0, rows) for name, draw in draws.items()})

    def _prepare(self, pixels: Tensor, labels: Tensor, draws: Draws) -> Batch:
        draws = {name: draw.to(pixels.device, non_blocking=True) for name, draw in draws.items()}
        images = self.appearance.look(pixels, draws)
        if "partner" not in draws:
            return images, labels
        (images, others), (labels, other_labels) = images.chunk(2), labels.chunk(2)
        return self.appearance.mix(images, others, labels, other_labels, draws["weight"].chunk(2)[0])

    def _identity(self) -> dict[str, int]:
        order = self.sampler
        sizes = {"samples": len(order.indices), "global_batch_size": order.global_batch_size}
        return sizes | {"seed": order.seed, "augmentation_seed": self.augmentation_seed}

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of batches yielded in it, and the sizes and seeds that fix the order."""
        return {"epoch": self._epoch, "batches": self._position, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the batches already yielded, if the next epoch is the saved one.

        Raises:
            ValueError: If the order changed within an epoch, naming the differences.
        """
        saved = {"augmentation_seed": state_dict["seed"]} | state_dict
        changed = {name: (saved[name], now) for name, now in self._identity().items() if saved[name] != now}
        if changed and 0 < state_dict["batches"] < len(self):
            differences = ", ".join(f"{name} was {was} and is {now}" for name, (was, now) in changed.items())
            raise ValueError(f"cannot resume in the middle of an epoch with other data: {differences}")
        self._epoch, self._position, self._resuming = state_dict["epoch"], state_dict["batches"], True


class EvaluationLoader:
    """Normalised batches `(images, labels)` of this rank's samples, always in the same order.

    Args:
        source: Source of the pixels.
        batches: Indices of each batch.
        appearance: Normalises the pixels.
    """

    def __init__(self, source: Source, batches: list[Tensor], appearance: Appearance) -> None:
        self.source = source
        self.batches = [rows.to(source.index_device) for rows in batches]
        self.appearance = appearance

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for pixels, labels in self.source.stream(self.batches, epoch=0):
            yield self.appearance.normalize(pixels), labels
