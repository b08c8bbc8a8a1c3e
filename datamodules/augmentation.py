"""Augmentation of whole batches on their device, with random draws per sample and epoch.

Shapes: B batch, N data set, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from symbreak.datamodules.randomness import generator

Draws = dict[str, Tensor]


def reflected_window(offset: Tensor, size: int) -> Tensor:
    """Return the positions read by a window at `offset`, reflected (edge not repeated) into 0..size-1.

    Args:
        offset: Start of each window, shape (B,), -size < offset < size.
        size: Length of the window and of the image.

    Returns:
        Positions, shape (B, size).
    """
    position = (torch.arange(size, device=offset.device) + offset[:, None]).abs()
    return (size - 1) - ((size - 1) - position).abs()


def crop(pixels: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Shift each image by reflection and mirror it left to right where `flip` is True.

    Equals reflection padding, a crop displaced by `shift`, then a flip.

    Args:
        pixels: Images, shape (B, C, H, W).
        shift: Rows and columns by which the window moves, shape (B, 2).
        flip: Which images are mirrored, shape (B,), bool.

    Returns:
        Images, shape (B, C, H, W).
    """
    height, width = pixels.shape[-2:]
    rows = reflected_window(shift[:, 0], height)
    columns = reflected_window(shift[:, 1], width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    flat = pixels.flatten(2)
    return flat.gather(2, source[:, None].expand_as(flat)).view_as(pixels)


def cutout(images: Tensor, corner: Tensor, size: int) -> Tensor:
    """Set a square to 0, the mean of normalised images; it may reach beyond the border (DeVries and Taylor 2017).

    Args:
        images: Normalised images, shape (B, C, H, W).
        corner: Top row and left column of each square, shape (B, 2), possibly negative.
        size: Side of the square in pixels.
    """
    inside = [
        (line >= start[:, None]) & (line < start[:, None] + size)
        for start, line in zip(
            corner.T, (torch.arange(n, device=images.device) for n in images.shape[-2:]), strict=True
        )
    ]
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


@dataclass(frozen=True)
class Augmentation:
    """Enabled augmentations and their random draws.

    Args:
        crop_padding: Largest shift of the crop in pixels; 0 disables it.
        flip: Mirror half of the images.
        cutout: Side of the square that is cut out, in pixels; 0 disables it.
        mixup: Parameter of the Beta distribution of the mixing weight (Zhang et al. 2018); 0 disables it.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0

    def draw(self, size: int, image_size: int, partners: Tensor, seed: int, epoch: int) -> Draws:
        """Draw for all samples of an epoch; entry i depends only on (seed, epoch, i).

        Args:
            size: Number of samples N.
            image_size: Height and width in pixels.
            partners: Samples that mixup may mix in, shape (M,).
            seed: Seed of the augmentation.
            epoch: Epoch, counted from 0.

        Returns:
            Draws of those enabled: "shift" (N, 2), "flip" (N,), "hole" (N, 2), "partner" (N,) and "weight" (N,).
        """
        draws: dict[str, np.ndarray] = {}
        if self.crop_padding or self.flip:
            pad = self.crop_padding
            draws["shift"] = generator(seed, epoch, "crop").integers(-pad, pad + 1, (size, 2))
            draws["flip"] = generator(seed, epoch, "flip").integers(0, 1 + self.flip, size).astype(bool)
        if self.cutout:
            draws["hole"] = generator(seed, epoch, "cutout").integers(0, image_size, (size, 2)) - self.cutout // 2
        if self.mixup:
            draws["partner"] = partners.numpy()[generator(seed, epoch, "partner").integers(0, len(partners), size)]
            draws["weight"] = generator(seed, epoch, "mixup").beta(self.mixup, self.mixup, size).astype(np.float32)
        return {name: torch.from_numpy(value) for name, value in draws.items()}


@dataclass(frozen=True)
class Appearance:
    """Conversion of pixels to network inputs: crop and flip, normalise, cutout, mixup.

    Args:
        mean: Mean of each channel in grey levels (0 to 255), shape (C, 1, 1).
        std: Standard deviation of each channel in grey levels, shape (C, 1, 1).
        num_classes: Number of classes, for the soft labels of mixup.
        cutout: Side of the square that is cut out.
    """

    mean: Tensor
    std: Tensor
    num_classes: int
    cutout: int = 0

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return float32 images of mean 0 and standard deviation 1 per channel over the training split."""
        return (pixels.float() - self.mean) / self.std

    def look(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Return augmented, normalised images before mixup; `draws` holds the entries of these samples."""
        if "shift" in draws:
            pixels = crop(pixels, draws["shift"], draws["flip"])
        images = self.normalize(pixels)
        return cutout(images, draws["hole"], self.cutout) if "hole" in draws else images

    def mix(
        self, images: Tensor, others: Tensor, labels: Tensor, other_labels: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return weight * sample + (1 - weight) * partner, for images and for labels (B, classes)."""
        soft, other_soft = (one_hot(each, self.num_classes).float() for each in (labels, other_labels))
        return torch.lerp(others, images, weight[:, None, None, None]), torch.lerp(other_soft, soft, weight[:, None])
