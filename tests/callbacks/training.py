"""A recording logger, small data and a short way to train."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers.logger import Logger
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class MemoryLogger(Logger):
    """Keeps what is logged: rows of (step, {key: value})."""

    def __init__(self):
        super().__init__()
        self.rows = []

    @property
    def name(self):
        return "memory"

    @property
    def version(self):
        return 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def series(self, key):
        """{step: value} of one key."""
        return {step: row[key] for step, row in self.rows if key in row}

    def keys(self, family):
        return {key for _, row in self.rows for key in row if key.startswith(f"{family}/")}


class Wrapped(LightningModule):
    """Any network as a classifier."""

    def __init__(self, network, learning_rate=0.1):
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.network(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def images(count=64, channels=3, size=8, classes=10, batch_size=16):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(count, channels, size, size, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return DataLoader(TensorDataset(data, labels), batch_size=batch_size)


def train(module, callbacks, steps=4, loader=None, ckpt_path=None, val_loader=None, **options):
    """Trains for a few steps; returns the trainer and what was logged."""
    logger = MemoryLogger()
    settings = {
        "max_steps": steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
        "logger": logger,
    } | options
    trainer = Trainer(callbacks=callbacks, **settings)
    trainer.fit(module, loader or images(), val_loader, ckpt_path=ckpt_path)
    return trainer, logger
