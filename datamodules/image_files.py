"""Images read from files: decoded by worker processes while training, or once into a tensor that is kept."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from symbreak.datamodules.randomness import generator
from symbreak.datamodules.sources import ResidentImages

DECODE_BATCH = 256
STATISTICS_SAMPLES = 4096
"""How many images the mean and standard deviation of a set too large for memory are estimated from."""


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Files as uint8 tensors; item (epoch, index) is a function of (seed, epoch, index), whichever process reads it.

    Args:
        root: Folder that `paths` are relative to.
        paths: The files.
        labels: Class of each file, shape (N,), int64.
        transform: From a PIL image to a uint8 tensor (C, H, W).
        mode: PIL's mode, "RGB" or "L".
        seed: Seed of what the transform draws from torch's global generator; None where it draws nothing.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Tensor,
        transform: nn.Module,
        mode: str,
        seed: int | None = None,
    ) -> None:
        self.root = root
        # One array instead of a list of strings: forked workers would copy a list by counting its references.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = labels
        self.transform = transform
        self.seed = seed
        self.mode = mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        with Image.open(self._path(index)) as file:
            image = file.convert(self.mode)
        if self.seed is None:
            return self.transform(image), self.labels[index]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(generator(self.seed, epoch, f"file {index}").integers(2**63)))
            return self.transform(image), self.labels[index]

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and times of the files, and of how they are decoded."""
        digest = hashlib.sha256(f"{self.transform} {self.mode}".encode())
        for index, path in enumerate(self.paths):
            status = os.stat(self._path(index))
            digest.update(b"%s %d %d\n" % (path, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()[:16]

    def _path(self, index: int) -> bytes:
        return os.path.join(os.fsencode(self.root), self.paths[index])


@dataclass
class Requests:
    """Batch sampler of a DataLoader whose workers persist: what the next pass over it reads."""

    indices: Sequence[Tensor] = ()
    epoch: int = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self.epoch, index) for index in rows.tolist()] for rows in self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def file_loader(files: ImageFiles, requests: Requests, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """Return a DataLoader over `requests` that leaves the global generators alone."""
    return DataLoader(
        files,
        batch_sampler=requests,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Without a generator of its own, each pass would draw a seed from the global one.
        generator=torch.Generator(),
    )


class StreamedImages:
    """Files that worker processes decode while the network trains.

    Args:
        files: The training view of the files.
        evaluation: The same files without random changes.
        device: The training device.
        num_workers: Worker processes; 0 reads in the training process, with the same result.
    """

    def __init__(self, files: ImageFiles, evaluation: ImageFiles, device: torch.device, num_workers: int) -> None:
        self.files, self.evaluation, self.device, self.num_workers = files, evaluation, device, num_workers
        self.labels = files.labels
        self._requests = Requests()
        self._loader = file_loader(files, self._requests, num_workers, pin_memory=device.type == "cuda")

    @property
    def index_device(self) -> torch.device:
        """The CPU, where the files are."""
        return torch.device("cpu")

    def batches_per_chunk(self, batch_size: int) -> int:
        """One: the workers run ahead by themselves."""
        return 1

    def stream(self, requests: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels and labels of each request, decoded ahead."""
        self._requests.indices, self._requests.epoch = requests, epoch
        for pixels, labels in self._loader:
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def for_evaluation(self) -> Self:
        """Return the same files without random changes, with workers of their own."""
        return type(self)(self.evaluation, self.evaluation, self.device, self.num_workers)

    def sample(self, indices: Tensor) -> Tensor:
        """Return at most `STATISTICS_SAMPLES` of the images asked for, evenly spaced."""
        spaced = indices[torch.linspace(0, len(indices) - 1, min(len(indices), STATISTICS_SAMPLES)).long()]
        return decode(self.evaluation, spaced, self.num_workers, "Measuring pixel statistics")


def decode(files: ImageFiles, indices: Tensor, num_workers: int, title: str) -> Tensor:
    """Decode files in parallel and show the progress.

    Returns:
        Pixels, shape (n, C, H, W), uint8.
    """
    requests = Requests(indices.split(DECODE_BATCH))
    workers = min(len(requests), os.cpu_count() or 1) if num_workers else 0
    loader = file_loader(files, requests, workers)
    return torch.cat([pixels for pixels, _ in track(loader, title, total=len(requests), transient=True)])


def resident_files(files: ImageFiles, device: torch.device, num_workers: int, cache: Path) -> ResidentImages:
    """Decode all files once, or read the tensor that an earlier call left in `cache`.

    Args:
        files: The files, with a transform that draws nothing.
        device: The training device.
        num_workers: 0 decodes in this process.
        cache: Folder for the decoded tensor; where it cannot be written, the files are decoded again next time.
    """
    path = cache / f"{files.fingerprint()}.pt"
    if path.exists():
        return ResidentImages(torch.load(path, weights_only=True), files.labels, device)
    images = decode(files, torch.arange(len(files)), num_workers, f"Decoding {files.root}")
    with suppress(OSError), TemporaryDirectory(dir=cache.parent) as folder:
        part = Path(folder, path.name)
        with part.open("wb") as file:
            torch.save(images, file)
        cache.mkdir(exist_ok=True)
        part.replace(path)
    return ResidentImages(images, files.labels, device)
