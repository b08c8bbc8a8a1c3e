"""scikit-learn's handwritten digits: 1,797 images, included in the package."""

from dataclasses import dataclass, field
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from symbreak.datamodules.image_datamodule import ImageDataModule, Split
from symbreak.datamodules.randomness import stratified_split
from symbreak.datamodules.sources import ResidentImages

TEST_FRACTION = 0.2
TEST_SPLIT_SEED = 0


@cache
def read_digits() -> tuple[Tensor, Tensor]:
    """Return all images, (1797, 1, 8, 8) uint8 with ink from 0 to 16, and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(labels).long()


@dataclass(kw_only=True, eq=False, repr=False)
class DigitsDataModule(ImageDataModule):
    """Digits, 8x8 pixels, one channel, ten classes; a fixed fifth of every class is the test set."""

    crop_padding: int = 0
    flip: bool = False
    num_classes: int = field(init=False, default=10)
    in_channels: int = field(init=False, default=1)
    image_size: int = field(init=False, default=8)

    def make_source(self, split: Split, device: torch.device) -> ResidentImages | None:
        """Return the training or the test images; None for "val"."""
        if split == "val":
            return None
        images, labels = read_digits()
        train, test = stratified_split(labels.numpy(), TEST_FRACTION, TEST_SPLIT_SEED)
        rows = train if split == "train" else test
        return ResidentImages(images[rows], labels[rows], device)
