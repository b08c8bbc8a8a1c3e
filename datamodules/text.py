"""Text for language models: Python's own language reference, or any file or folder of text."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal, Self, get_args

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from symbreak.datamodules.augmentation import Appearance, Augmentation
from symbreak.datamodules.loaders import EvaluationLoader, TrainingLoader
from symbreak.datamodules.order import TrainingOrder, evaluation_batches
from symbreak.datamodules.randomness import generator

Tokens = Literal["characters", "bytes"]
TRAIN_SHARE, VAL_SHARE = 0.9, 0.05


def read_text(path: str | None) -> str:
    """Return a text file, all text files of a folder in the order of their paths, or the language reference.

    Raises:
        ValueError: If the path does not exist, is empty, or is not UTF-8.
    """
    if path is None:
        return "\n".join(topics[name] for name in sorted(topics))
    place = Path(path)
    files = sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
    try:
        text = "\n".join(each.read_text(encoding="utf-8") for each in files)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path={path!r}: expected a UTF-8 text file or a folder of them: {error}") from error
    if not text:
        raise ValueError(f"path={path!r} holds no text")
    return text


class TextWindows:
    """Windows of a text: sample i holds tokens i T + s to (i + 1) T + s, with a shift s drawn for each epoch.

    Args:
        tokens: the text, (length,) uint8 or int64.
        context: T, tokens of a window.
        seed: seed of the shifts; None for s = 0.
    """

    def __init__(self, tokens: Tensor, context: int, seed: int | None) -> None:
        self.tokens, self.context, self.seed = tokens, context, seed
        spare = 1 if seed is None else context
        count = max(0, (len(tokens) - spare) // context)
        self.labels = torch.arange(count)
        self.index_device = tokens.device

    def batches_per_chunk(self, batch_size: int) -> int:
        """Return 1: a window is a slice, which is cheap."""
        return 1

    def stream(self, requests: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield tokens and next tokens, each (len(request), T) int64."""
        shift = 0 if self.seed is None else int(generator(self.seed, epoch, "shift").integers(self.context))
        offsets = torch.arange(self.context + 1, device=self.tokens.device) + shift
        for request in requests:
            windows = self.tokens[request[:, None] * self.context + offsets].long()
            yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def for_evaluation(self) -> Self:
        """Return itself."""
        return self

    def sample(self, indices: Tensor) -> Tensor:
        """Return unshifted windows, (len(indices), T)."""
        return next(self.stream([indices.to(self.index_device)], 0))[0]


class Verbatim(Appearance):
    """Return tokens unchanged."""

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return the tokens unchanged."""
        return pixels


@dataclass(kw_only=True, eq=False, repr=False)
class TextDataModule(LightningDataModule):
    """Text cut into windows of ``context`` tokens: the first 90 % train, 5 % validate, the last 5 % test.

    Batches are (tokens, next tokens), each (B, context) int64 on the training device. Order and shift of the windows
    are a pure function of (seed, epoch, index).

    Args:
        path: UTF-8 text file, or folder of them; None for the language reference that comes with Python
            (``pydoc_data.topics``, whose size depends on Python's version: 464,970 characters in 3.11).
        tokens: ``characters`` (those of the text, sorted) or ``bytes`` of its UTF-8 form.
        context: tokens of a window.
        batch_size: windows per batch and device.
        seed: seed of the order; None is the global seed of Lightning's ``seed_everything``, or 0 without one.
        order_seed: the same, under the name that image data have too; None is ``seed``.

    Attributes:
        num_classes: size of the vocabulary.
        in_channels: numbers per token, 1.
        vocabulary: the characters; empty for bytes.

    Raises:
        ValueError: If an argument is out of bounds or the text cannot be read.
    """

    path: str | None = None
    tokens: Tokens = "characters"
    context: int = 64
    batch_size: int = 64
    seed: int | None = None
    order_seed: int | None = None
    in_channels: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        """Check the arguments and read the text."""
        super().__init__()
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        self.save_hyperparameters(given, logger=False)
        given_seed = self.seed if self.order_seed is None else self.order_seed
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if given_seed is None else given_seed
        for name, low in {"context": 1, "batch_size": 1, "seed": 0, "order_seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        if self.tokens not in get_args(Tokens):
            raise ValueError(f"tokens={self.tokens!r}: expected 'characters' or 'bytes'")
        text = read_text(self.path)
        self.vocabulary = "".join(sorted(set(text))) if self.tokens == "characters" else ""
        self.num_classes = len(self.vocabulary) or 256
        number = {character: index for index, character in enumerate(self.vocabulary)}
        self._tokens = torch.tensor([number[each] for each in text] if number else list(text.encode()))
        ends = [round(len(self._tokens) * share) for share in (0, TRAIN_SHARE, TRAIN_SHARE + VAL_SHARE, 1)]
        self._bounds = dict(zip(("train", "val", "test"), pairwise(ends), strict=True))
        if min(end - start for start, end in self._bounds.values()) <= self.context:
            raise ValueError(f"{len(self._tokens)} tokens are too few for windows of context={self.context}")

    def windows(self, split: Literal["train", "val", "test"]) -> TextWindows:
        """Return the windows of a split on the training device."""
        start, end = self._bounds[split]
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return TextWindows(self._tokens[start:end].to(device), self.context, self._seed if split == "train" else None)

    def train_dataloader(self) -> TrainingLoader:
        """Return the shuffled windows of this rank."""
        source = self.windows("train")
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        order = TrainingOrder(source.labels, self.batch_size, self._seed, *self._rank(), shuffle)
        return TrainingLoader(source, order, Augmentation(), self._appearance(source), self.context, self._seed)

    def val_dataloader(self) -> EvaluationLoader:
        """Return this rank's share of the validation windows."""
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationLoader:
        """Return this rank's share of the test windows."""
        return self._evaluation("test")

    def _evaluation(self, split: Literal["val", "test"]) -> EvaluationLoader:
        source = self.windows(split)
        batches = evaluation_batches(source.labels, self.batch_size, *self._rank())
        return EvaluationLoader(source, batches, self._appearance(source))

    def _appearance(self, source: TextWindows) -> Verbatim:
        zero = torch.zeros(1, 1, 1, device=source.index_device)
        return Verbatim(zero, zero + 1, self.num_classes)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
