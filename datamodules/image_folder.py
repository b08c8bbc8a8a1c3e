"""Image folders with one sub-folder per class, such as CINIC-10 or ImageNet-N."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from torchvision.transforms import v2

from symbreak.datamodules.image_datamodule import ImageDataModule, Split
from symbreak.datamodules.image_files import ImageFiles, StreamedImages, resident_files
from symbreak.datamodules.sources import Source

RESIDENT_BYTES = 2**31
"""Largest split, in bytes as uint8, kept on the training device with `resident="auto"`."""

FOLDERS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MODES = {1: "L", 3: "RGB"}
Resident = Literal["auto", "always", "never"]
Crop = Literal["pad", "resized"]


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(ImageDataModule):
    """Images in `root/<split>/<class>/`, with the splits train, val (or valid, validation) and test.

    Without a validation folder, validation is held out of train by `val_fraction`; without a test folder, the
    validation folder is the test set. The classes are the sub-folders of train in alphabetical order. A small set is
    decoded once, kept on the training device, and cached in `root/.symbreak`; a large one is decoded by worker
    processes during training.

    Args:
        root: The folder.
        image_size: Height and width in pixels: the shorter side is resized to it, then the centre is cropped.
        in_channels: 3 for colour, 1 for grey.
        num_workers: Processes that decode; 0 decodes in the training process.
        resident: Keep all pixels on the training device: "always", "never", or "auto", up to 2 GiB a split.
        crop: "pad" shifts by up to `crop_padding`; "resized" crops a random area and aspect ratio (Inception's
            crop), and evaluation uses the centre 7/8 of the images.
    """

    root: str
    image_size: int = 32
    in_channels: int = 3
    num_workers: int = 2
    resident: Resident = "auto"
    crop: Crop = "pad"

    def __post_init__(self) -> None:
        """Check the arguments and find the classes.

        Raises:
            ValueError: If an argument is not allowed, naming the allowed values.
            FileNotFoundError: If there is no folder of training images.
        """
        self.crop_padding = self.crop_padding if self.crop == "pad" else 0
        super().__post_init__()
        allowed = {"in_channels": tuple(MODES), "resident": get_args(Resident), "crop": get_args(Crop)}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {getattr(self, name)!r}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if self.crop == "resized" and self.resident == "always":
            raise ValueError('crop="resized" needs the whole files: use resident="auto" or "never"')
        self.class_to_index = find_classes(str(self._require_folder("train")))[1]
        self.num_classes = len(self.class_to_index)

    def prepare_data(self) -> None:
        """Decode a resident set in one process; the others load it from the cache."""
        for split in ("train", "val", "test"):
            self.make_source(split, torch.device("cpu"))

    def make_source(self, split: Split, device: torch.device) -> Source | None:
        """Return the images of a split; for "test" without a folder, those of "val"."""
        folder = self._folder(split)
        if folder is None and split == "val":
            return None
        folder = folder or self._folder("val") or self._require_folder(split)
        paths, labels = self._find(folder)
        plain, mode = self._plain_transform(), MODES[self.in_channels]
        files = ImageFiles(folder, paths, labels, plain, mode)
        if self._is_resident(len(files)):
            return resident_files(files, device, self.num_workers, Path(self.root, ".symbreak"))
        if split == "train" and self.crop == "resized":
            transform = nn.Sequential(v2.RandomResizedCrop(self.image_size), v2.PILToTensor())
            training = ImageFiles(folder, paths, labels, transform, mode, self._augmentation_seed)
            return StreamedImages(training, files, device, self.num_workers)
        return StreamedImages(files, files, device, self.num_workers)

    def _is_resident(self, count: int) -> bool:
        fits = count * self.in_channels * self.image_size**2 <= RESIDENT_BYTES
        return self.resident == "always" or (self.resident == "auto" and self.crop == "pad" and fits)

    def _plain_transform(self) -> nn.Module:
        shorter_side = self.image_size if self.crop == "pad" else round(self.image_size * 8 / 7)
        return nn.Sequential(v2.Resize(shorter_side), v2.CenterCrop(self.image_size), v2.PILToTensor())

    def _find(self, folder: Path) -> tuple[list[str], Tensor]:
        """Return the paths of the images, relative to `folder`, and their classes."""
        unknown = sorted(set(find_classes(str(folder))[0]) - set(self.class_to_index))
        if unknown:
            raise ValueError(f"{folder} has classes that train has not: {', '.join(unknown[:5])}")
        found = make_dataset(str(folder), self.class_to_index, IMG_EXTENSIONS, allow_empty=True)
        if not found:
            raise FileNotFoundError(f"no images in {folder.absolute()}: looked for {', '.join(IMG_EXTENSIONS)}")
        return [str(Path(path).relative_to(folder)) for path, _ in found], torch.tensor([label for _, label in found])

    def _folder(self, split: Split) -> Path | None:
        return next((path for name in FOLDERS[split] if (path := Path(self.root, name)).is_dir()), None)

    def _require_folder(self, split: Split) -> Path:
        folder = self._folder(split)
        if folder is None:
            raise FileNotFoundError(
                f"no folder {' or '.join(FOLDERS[split])} in {Path(self.root).absolute()}: --data.init_args.root must "
                f"be a folder that holds {split}/<class>/<image>"
            )
        return folder
