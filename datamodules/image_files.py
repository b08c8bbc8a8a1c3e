"""Image files: decoded by worker processes during training, or once into a resident tensor."""

import hashlib
import os
import zipfile
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
"""Number of images used to estimate the mean and standard deviation of a streamed set."""


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Files as uint8 tensors; item (epoch, index) depends only on (seed, epoch, index), not on the process.

    Args:
        root: Folder that `paths` are relative to.
        paths: The files.
        labels: Class of each file, shape (N,), int64.
        transform: From a PIL image to a uint8 tensor (C, H, W).
        mode: PIL's mode, "RGB" or "L".
        seed: Seed of torch's global generator during the transform; None if the transform is deterministic.
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
        # An array, not a list: reference counting in forked workers would copy a list's memory pages.
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
        """Return a digest of the files' names, sizes and modification times, and of the decoding options."""
        digest = hashlib.sha256(f"{self.transform} {self.mode}".encode())
        for index, path in enumerate(self.paths):
            status = os.stat(self._path(index))
            digest.update(b"%s %d %d\n" % (path, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()[:16]

    def _path(self, index: int) -> bytes:
        return os.path.join(os.fsencode(self.root), self.paths[index])


@dataclass
class Requests:
    """Mutable batch sampler of a DataLoader with persistent workers; set it before each pass."""

    indices: Sequence[Tensor] = ()
    epoch: int = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self.epoch, index) for index in rows.tolist()] for rows in self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def file_loader(files: ImageFiles, requests: Requests, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """Return a DataLoader over `requests` that does not use the global generators."""
    return DataLoader(
        files,
        batch_sampler=requests,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # By default each pass draws a seed from the global generator.
        generator=torch.Generator(),
    )


class StreamedImages:
    """Image files that worker processes decode during training.

    Args:
        files: The files with the training transform.
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
        """Return the CPU: workers read the files there."""
        return torch.device("cpu")

    def batches_per_chunk(self, batch_size: int) -> int:
        """Return 1: the workers prefetch batches."""
        return 1

    def stream(self, requests: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels and labels of each request, prefetched by the workers."""
        self._requests.indices, self._requests.epoch = requests, epoch
        for pixels, labels in self._loader:
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def for_evaluation(self) -> Self:
        """Return the same files without random changes, with separate workers."""
        return type(self)(self.evaluation, self.evaluation, self.device, self.num_workers)

    def sample(self, indices: Tensor) -> Tensor:
        """Return at most `STATISTICS_SAMPLES` of the requested images, evenly spaced."""
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
    """Decode all files once, or load the tensor that an earlier call cached whole.

    Args:
        files: The files, with a deterministic transform.
        device: The training device.
        num_workers: 0 decodes in this process.
        cache: Folder for the decoded tensor; if it is not writable, the next call decodes again.
    """
    path = cache / f"{files.fingerprint()}.pt"
    if zipfile.is_zipfile(path):  # else missing or truncated
        return ResidentImages(torch.load(path, weights_only=True), files.labels, device)
    images = decode(files, torch.arange(len(files)), num_workers, f"Decoding {files.root}")
    with suppress(OSError), TemporaryDirectory(dir=cache.parent) as folder:
        part = Path(folder, path.name)
        with part.open("wb") as file:
            torch.save(images, file)
        cache.mkdir(exist_ok=True)
        part.replace(path)
    return ResidentImages(images, files.labels, device)
