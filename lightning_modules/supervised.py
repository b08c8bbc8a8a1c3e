"""SupervisedModule: loss, metrics and their logging, common to image classifiers and language models."""

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

Stage = Literal["train", "val", "test"]


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


class SupervisedModule(LightningModule):
    """Base of networks trained by cross-entropy on batches (inputs, targets); logs `LossAndAccuracy` by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()
        self.train_metrics = LossAndAccuracy()
        self.val_metrics = LossAndAccuracy()
        self.test_metrics = LossAndAccuracy()
        self._logged_step = 0

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of a batch and add it to the training metrics."""
        return self._step(batch, "train")

    def on_train_start(self) -> None:
        """Mark a resumed run's step as logged: its metrics were logged before the checkpoint."""
        self._logged_step = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the interval's means every ``log_every_n_steps`` updates; other steps do not synchronise."""
        trainer: Any = self.trainer
        step, interval = trainer.global_step, trainer.log_every_n_steps
        if interval and step % interval == 0 and step != self._logged_step:
            self._logged_step = step
            self._log("train", on_step=True)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch to the validation metrics."""
        self._step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation set."""
        self._log("val")

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch to the test metrics."""
        self._step(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test set."""
        self._log("test")

    def update_metrics(self, stage: Stage, logits: Tensor, targets: Tensor) -> Tensor:
        """Add a batch to the metrics of a stage and return its mean cross-entropy."""
        loss = self.loss(logits, targets)
        self._metrics(stage).update(loss, logits, targets)
        return loss

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """Return the metrics of a stage by name, and reset them."""
        metrics = self._metrics(stage)
        values = metrics.compute()
        metrics.reset()
        return values

    def _metrics(self, stage: Stage) -> LossAndAccuracy:
        return {"train": self.train_metrics, "val": self.val_metrics, "test": self.test_metrics}[stage]

    def _step(self, batch: tuple[Tensor, Tensor], stage: Stage) -> Tensor:
        inputs, targets = batch
        return self.update_metrics(stage, self(inputs), targets)

    def _log(self, stage: Stage, on_step: bool = False) -> None:
        values = {f"{stage}/{key}": value for key, value in self.compute_metrics(stage).items()}
        # compute() already sums over ranks; sync_dist only tells Lightning that all ranks hold the same value.
        self.log_dict(values, on_step=on_step, on_epoch=not on_step, sync_dist=not on_step)
