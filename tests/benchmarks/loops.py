"""The training loops that are compared: Lightning's, a bare one, and the pipeline of published scripts."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from symbreak.datamodules import DigitsDataModule
from symbreak.datamodules.image_datamodule import ImageDataModule
from symbreak.datamodules.sources import ResidentImages
from symbreak.lightning_modules.classifier import SGD_DEFAULTS

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class RandomImages(ImageDataModule):
    """Noise of CIFAR's shape: 32x32 pixels, 3 channels, 10 classes."""

    num_classes, in_channels, image_size = 10, 3, 32

    def make_source(self, split, device):
        if split == "val":
            return None
        generator = torch.Generator().manual_seed(0)
        count = 5120 if split == "train" else 128
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return ResidentImages(images, torch.randint(0, 10, (count,), generator=generator), device)


class _Tick(Callback):
    """Ends the fit, or waits for a turn, before each batch."""

    def __init__(self, tick):
        self.tick = tick

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.tick():
            trainer.should_stop = True
            return -1
        return None


def lightning(network: LightningModule, data: ImageDataModule, callbacks: Sequence[Callback] = (), **options):
    """The project's way to train: its datamodule, its module, Lightning's Trainer."""

    def loop(tick):
        warnings.filterwarnings("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        settings = {
            "max_steps": -1,
            "max_epochs": -1,
            "accelerator": "auto",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "log_every_n_steps": 10,
        } | options
        Trainer(callbacks=[_Tick(tick), *callbacks], **settings).fit(network, datamodule=data)

    return loop


class Plain(LightningModule):
    """A network trained by Lightning and nothing else: no metric, no log."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        return _optimizer(self.network)


def _optimizer(network):
    return torch.optim.SGD(network.parameters(), **SGD_DEFAULTS)


def bare(network: nn.Module, data: ImageDataModule, device: torch.device):
    """Nothing but the step, on batches that lie ready on the device."""

    def loop(tick):
        data.setup("fit")
        batches = [tuple(each.to(device) for each in batch) for batch in data.train_dataloader()]
        network.to(device).train()
        optimizer, step = _optimizer(network), 0
        while tick():
            images, labels = batches[step % len(batches)]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            step += 1

    return loop


class _PilImages(Dataset):
    """One PIL image after another through per-sample transforms, as the published scripts read CIFAR-10."""

    def __init__(self, images, labels, image_size):
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(image_size, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(CIFAR_MEAN, CIFAR_STD),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def published(network: nn.Module, device: torch.device, batch_size: int = 128):
    """Per-sample PIL transforms, a DataLoader with one worker, and the loss fetched at every step."""

    def loop(tick):
        source: Any = RandomImages().make_source("train", torch.device("cpu"))
        dataset = _PilImages(source.images, source.labels, 32)
        loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=1, pin_memory=device.type == "cuda")
        network.to(device).train()
        optimizer, total = _optimizer(network), 0.0
        while True:
            for images, labels in loader:
                if not tick():
                    return
                images, labels = images.to(device), labels.to(device)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(images), labels)
                loss.backward()
                optimizer.step()
                total += loss.item()

    return loop


def digits() -> DigitsDataModule:
    return DigitsDataModule()
