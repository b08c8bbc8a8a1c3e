"""ImageClassifier: loss, metrics and optimiser of all image classifiers, without architecture."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from symbreak.lightning_modules.checks import check_range

SGD_DEFAULTS: dict[str, Any] = {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4}


class LossAndAccuracy(Metric):
    """Mean loss and accuracy over samples, from three sums over ranks and micro-batches.

    torchmetrics' MeanMetric either synchronises with the host to look for NaN or drops its weights.
    """

    full_state_update = False
    loss: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add one batch: its mean loss (0-dim), logits (N, classes), targets (N,) or soft targets (N, classes)."""
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        self.loss = self.loss.add(loss.detach(), alpha=len(labels))
        self.correct = self.correct + (logits.detach().argmax(dim=1) == labels).sum()
        self.count = self.count + len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean loss and the share of correct predictions since the last reset."""
        return {"loss": self.loss / self.count, "accuracy": self.correct / self.count}


class ImageClassifier(LightningModule):
    """Base of image classifiers: subclasses build layers and define ``forward(images) -> logits``.

    ======================================  ==============================================================
    key                                     meaning
    ======================================  ==============================================================
    ``train/loss``, ``train/accuracy``      mean over the samples since the last logged step, logged every
                                            ``trainer.log_every_n_steps`` updates
    ``val/loss``, ``val/accuracy``          mean over the validation set
    ``test/loss``, ``test/accuracy``        mean over the test set
    ======================================  ==============================================================

    Images are (N, in_channels, height, width); targets are class indices (N,) or soft targets (N, num_classes).

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 1)
        check_range("in_channels", in_channels, 1)
        self.loss = nn.CrossEntropyLoss()
        self.train_metrics = LossAndAccuracy()
        self.val_metrics = LossAndAccuracy()
        self.test_metrics = LossAndAccuracy()
        self._logged_step = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with `SGD_DEFAULTS`, used unless the command line sets an optimiser."""
        return torch.optim.SGD(self.parameters(), **SGD_DEFAULTS)

    def freeze_layers(self, patterns: Sequence[str]) -> None:
        """Freeze each parameter whose dotted name, or that of a parent module, matches a shell-style pattern.

        Raises:
            ValueError: for a pattern without a match, naming the available modules.
        """
        for pattern in patterns:
            matched = [p for name, p in self.named_parameters() if _matches(name, pattern)]
            if not matched:
                names = ", ".join(name for name, child in self.named_modules() if name and list(child.parameters()))
                raise ValueError(f"frozen_layers: {pattern!r} matches no parameter; there are {names}")
            for parameter in matched:
                parameter.requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of a batch and add it to the training metrics."""
        return self._step(batch, self.train_metrics)

    def on_train_start(self) -> None:
        """Mark a resumed run's step as logged: its metrics were logged before the checkpoint."""
        self._logged_step = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the interval's means every ``log_every_n_steps`` updates; other steps do not synchronise."""
        trainer: Any = self.trainer
        step, interval = trainer.global_step, trainer.log_every_n_steps
        if interval and step % interval == 0 and step != self._logged_step:
            self._logged_step = step
            self._log("train", self.train_metrics, on_step=True)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch to the validation metrics."""
        self._step(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation set."""
        self._log("val", self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch to the test metrics."""
        self._step(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the means over the test set."""
        self._log("test", self.test_metrics)

    def _step(self, batch: tuple[Tensor, Tensor], metrics: LossAndAccuracy) -> Tensor:
        images, targets = batch
        logits = self(images)
        loss = self.loss(logits, targets)
        metrics.update(loss, logits, targets)
        return loss

    def _log(self, stage: str, metrics: LossAndAccuracy, on_step: bool = False) -> None:
        values = {f"{stage}/{key}": value for key, value in metrics.compute().items()}
        metrics.reset()
        # compute() already sums over ranks; sync_dist only tells Lightning that all ranks hold the same value.
        self.log_dict(values, on_step=on_step, on_epoch=not on_step, sync_dist=not on_step)


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))
