"""ImageDataModule: splits, batches, order and augmentation, independent of the image source."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from symbreak.datamodules.augmentation import Appearance, Augmentation
from symbreak.datamodules.loaders import EvaluationLoader, TrainingLoader
from symbreak.datamodules.order import TrainingOrder, evaluation_batches
from symbreak.datamodules.randomness import stratified_split
from symbreak.datamodules.sources import Source, channel_statistics

Split = Literal["train", "val", "test"]


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(LightningDataModule, ABC):
    """Image classification data whose order and augmentation are a pure function of (seed, epoch, index).

    Batches are `(images, labels)` on the training device: float32 (B, C, H, W), normalised per channel by the training
    split, and int64 (B,), or probabilities (B, num_classes) with mixup. Training drops the last, incomplete batch.
    Ranks share each global batch, and each evaluation sample is seen exactly once.

    Args:
        batch_size: Samples per batch and device.
        seed: Seed of the order and the augmentation; None is the global seed of Lightning's ``seed_everything``, or 0
            without one.
        order_seed: Seed of the order alone; None is ``seed``.
        augmentation_seed: Seed of the augmentation alone; None is ``seed``.
        split_seed: Seed of the validation split.
        val_fraction: Share of every class of the training set that is held out for validation; 0 holds out none.
        crop_padding: Largest shift of the random crop in pixels, with reflection padding; 0 disables it.
        flip: Mirror half of the training images.
        cutout: Side in pixels of a square that is set to the mean; 0 disables it.
        mixup: Parameter of the Beta distribution of the mixing weight; 0 disables it.
    """

    batch_size: int = 128
    seed: int | None = None
    order_seed: int | None = None
    augmentation_seed: int | None = None
    split_seed: int = 0
    val_fraction: float = 0.1
    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    mixup: float = 0.0
    num_classes: int = field(init=False)
    in_channels: int = field(init=False)
    image_size: int = field(init=False)

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ValueError: If an argument is out of bounds, naming the bounds.
        """
        super().__init__()
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        self.save_hyperparameters(given, logger=False)
        self._device: torch.device | None = None
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        self._order_seed = seed if self.order_seed is None else self.order_seed
        self._augmentation_seed = seed if self.augmentation_seed is None else self.augmentation_seed
        bounds = {
            "batch_size": self.batch_size >= 1 or "at least 1",
            "seed": seed >= 0 or "at least 0",
            "order_seed": self._order_seed >= 0 or "at least 0",
            "augmentation_seed": self._augmentation_seed >= 0 or "at least 0",
            "split_seed": self.split_seed >= 0 or "at least 0",
            "val_fraction": 0 <= self.val_fraction < 1 or "at least 0 and below 1",
            "crop_padding": 0 <= self.crop_padding < self.image_size or f"from 0 to {self.image_size - 1}",
            "cutout": 0 <= self.cutout <= 2 * self.image_size or f"from 0 to {2 * self.image_size}",
            "mixup": self.mixup >= 0 or "at least 0",
        }
        for name, allowed in bounds.items():
            if allowed is not True:
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)}")

    @abstractmethod
    def make_source(self, split: Split, device: torch.device) -> Source | None:
        """Return the samples of a split; None for "val" if the set has no validation images."""

    def setup(self, stage: str) -> None:
        """Load the data onto the trainer's device, split it and compute channel statistics, once per device."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device == self._device:
            return
        train = self._require("train", device)
        val, everything = self.make_source("val", device), torch.arange(len(train.labels))
        if val is not None:
            self._train_indices, self._val_indices = everything, torch.arange(len(val.labels))
        else:
            split = stratified_split(train.labels.cpu().numpy(), self.val_fraction, self.split_seed)
            self._train_indices, self._val_indices = (torch.from_numpy(indices) for indices in split)
        self._train, self._val = train, val or train.for_evaluation()
        self._test = self._require("test", device)
        mean, std = channel_statistics(train.for_evaluation().sample(self._train_indices))
        self._appearance = Appearance(mean.to(device), std.to(device), self.num_classes, self.cutout)
        self._device = device

    def _require(self, split: Split, device: torch.device) -> Source:
        source = self.make_source(split, device)
        assert source is not None, split
        return source

    def train_dataloader(self) -> TrainingLoader:
        """Return the augmented training batches of this rank."""
        rank, world_size = self._rank()
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        order = TrainingOrder(self._train_indices, self.batch_size, self._order_seed, rank, world_size, shuffle)
        augmentation = Augmentation(self.crop_padding, self.flip, self.cutout, self.mixup)
        seed = self._augmentation_seed
        return TrainingLoader(self._train, order, augmentation, self._appearance, self.image_size, seed)

    def val_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        """Return this rank's share of the validation samples; an empty list if there are none."""
        return self._evaluation(self._val, self._val_indices) if len(self._val_indices) else []

    def test_dataloader(self) -> EvaluationLoader:
        """Return this rank's share of the test samples."""
        return self._evaluation(self._test, torch.arange(len(self._test.labels)))

    def _evaluation(self, source: Source, indices: Tensor) -> EvaluationLoader:
        return EvaluationLoader(source, evaluation_batches(indices, self.batch_size, *self._rank()), self._appearance)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
