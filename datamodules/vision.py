"""Image sets of torchvision: CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN."""

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, FashionMNIST

from symbreak.datamodules.image_datamodule import ImageDataModule, Split
from symbreak.datamodules.sources import ResidentImages


@dataclass(kw_only=True, eq=False, repr=False)
class VisionDataModule(ImageDataModule):
    """A torchvision data set, resident on the training device.

    Args:
        root: Parent folder of the data set's folder.
        download: Download the data set into `root` if it is missing.
    """

    root: str = "data"
    download: bool = False
    title: ClassVar[str]
    folder: ClassVar[str]
    hint: ClassVar[str] = ""

    @abstractmethod
    def open(self, train: bool, download: bool) -> Any:
        """Return torchvision's data set."""

    @abstractmethod
    def read(self, dataset: Any) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64 of torchvision's data set."""

    def prepare_data(self) -> None:
        """Download the data set if asked to.

        Raises:
            FileNotFoundError: If the download fails.
        """
        if self.download:
            try:
                self.open(train=True, download=True)
                self.open(train=False, download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(f"downloading {self.title} into {self._place()} failed: {error}") from error

    def make_source(self, split: Split, device: torch.device) -> ResidentImages | None:
        """Return the training or the test images.

        Raises:
            FileNotFoundError: If the data set is not in `root`, naming the folder and the download option.
        """
        if split == "val":
            return None
        try:
            dataset = self.open(train=split == "train", download=False)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{self.title} is not, or not completely, in {self._place()}. Set --data.init_args.root to the folder "
                f"that holds {self.folder}, or download it: --data.init_args.download=true{self.hint}"
            ) from error
        return ResidentImages(*self.read(dataset), device)

    def _place(self) -> Path:
        return Path(self.root, self.folder).absolute()


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10DataModule(VisionDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images, 32x32 pixels, three channels, ten classes."""

    num_classes: int = field(init=False, default=10)
    in_channels: int = field(init=False, default=3)
    image_size: int = field(init=False, default=32)
    title: ClassVar[str] = "CIFAR-10"
    folder: ClassVar[str] = CIFAR10.base_folder
    dataset: ClassVar[type[CIFAR10]] = CIFAR10

    def open(self, train: bool, download: bool) -> CIFAR10:
        """Return torchvision's data set, whose files are verified by checksum before they are read."""
        return self.dataset(self.root, train=train, download=download)

    def read(self, dataset: CIFAR10) -> tuple[Tensor, Tensor]:
        """Return the images with channels first, and the labels."""
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as CIFAR-10 with 100 classes of 500 training and 100 test images."""

    num_classes: int = field(init=False, default=100)
    title: ClassVar[str] = "CIFAR-100"
    folder: ClassVar[str] = CIFAR100.base_folder
    dataset: ClassVar[type[CIFAR10]] = CIFAR100


@dataclass(kw_only=True, eq=False, repr=False)
class FashionMNISTDataModule(VisionDataModule):
    """Fashion-MNIST: 60,000 training and 10,000 test images, 28x28 pixels, one channel, ten classes."""

    num_classes: int = field(init=False, default=10)
    in_channels: int = field(init=False, default=1)
    image_size: int = field(init=False, default=28)
    title: ClassVar[str] = "Fashion-MNIST"
    folder: ClassVar[str] = "FashionMNIST/raw"
    hint: ClassVar[str] = "; Debian's package dataset-fashion-mnist has the same four files, to be unpacked by gunzip"

    def open(self, train: bool, download: bool) -> FashionMNIST:
        """Return torchvision's data set."""
        return FashionMNIST(self.root, train=train, download=download)

    def read(self, dataset: FashionMNIST) -> tuple[Tensor, Tensor]:
        """Return the images with a channel axis, and the labels."""
        return dataset.data.unsqueeze(1), dataset.targets


@dataclass(kw_only=True, eq=False, repr=False)
class SVHNDataModule(VisionDataModule):
    """SVHN, house numbers: 73,257 training and 26,032 test images, 32x32 pixels, three channels, ten classes."""

    flip: bool = False
    num_classes: int = field(init=False, default=10)
    in_channels: int = field(init=False, default=3)
    image_size: int = field(init=False, default=32)
    title: ClassVar[str] = "SVHN"
    folder: ClassVar[str] = "train_32x32.mat"

    def open(self, train: bool, download: bool) -> SVHN:
        """Return torchvision's data set."""
        return SVHN(self.root, split="train" if train else "test", download=download)

    def read(self, dataset: SVHN) -> tuple[Tensor, Tensor]:
        """Return the images and the labels."""
        return torch.from_numpy(dataset.data).contiguous(), torch.from_numpy(dataset.labels).long()
