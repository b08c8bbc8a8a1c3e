"""Data modules for images and text."""

from symbreak.datamodules.digits import DigitsDataModule
from symbreak.datamodules.image_datamodule import ImageDataModule
from symbreak.datamodules.image_folder import ImageFolderDataModule
from symbreak.datamodules.text import TextDataModule
from symbreak.datamodules.vision import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    SVHNDataModule,
    VisionDataModule,
)

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "SVHNDataModule",
    "TextDataModule",
    "VisionDataModule",
]
