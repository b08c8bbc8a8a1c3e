"""LanguageModel: next-token loss, metrics and optimiser of all language models, without architecture."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.text import Perplexity

from symbreak.lightning_modules.checks import check_range
from symbreak.lightning_modules.classifier import LossAndAccuracy
from symbreak.lightning_modules.mixture import MixtureOfExperts

ADAMW_DEFAULTS: dict[str, Any] = {"lr": 3e-3, "weight_decay": 0.1}


class LanguageModel(LightningModule):
    """Base of language models: subclasses define ``forward(tokens (N, T)) -> logits (N, T, num_classes)``.

    ============================================  ========================================================
    key                                           meaning
    ============================================  ========================================================
    ``train/loss``, ``train/accuracy``            mean next-token cross-entropy in nats per token and share of
                                                  correct predictions since the last logged step
    ``val/loss``, ``val/accuracy``                the same over the validation text
    ``test/loss``, ``test/accuracy``              the same over the test text
    ``val/perplexity``, ``test/perplexity``       exp(loss)
    ============================================  ========================================================

    Batches are (tokens, next tokens), each (N, T) int64.

    Args:
        num_classes: size of the vocabulary.
        balance: weight of the load-balance losses of `MixtureOfExperts` in training.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, num_classes: int, balance: float = 0.0) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 1)
        check_range("balance", balance, 0)
        self.balance = balance
        self.loss = nn.CrossEntropyLoss()
        self.metrics = nn.ModuleDict({f"{stage}_metrics": LossAndAccuracy() for stage in ("train", "val", "test")})
        self.perplexity = nn.ModuleDict({f"{stage}_metrics": Perplexity() for stage in ("val", "test")})
        self._logged_step = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with `ADAMW_DEFAULTS`, used unless the command line sets an optimiser."""
        return torch.optim.AdamW(self.parameters(), **ADAMW_DEFAULTS)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean next-token cross-entropy of a batch plus the weighted load-balance losses."""
        loss = self._step(batch, "train")
        if self.balance:
            losses = [each.balance_loss for each in self.modules() if isinstance(each, MixtureOfExperts)]
            loss = loss + self.balance * sum(losses, loss.new_zeros(()))
        return loss

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
        """Log the means over the validation text."""
        self._log("val")

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch to the test metrics."""
        self._step(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test text."""
        self._log("test")

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        tokens, targets = batch
        logits = self(tokens)
        flat = logits.flatten(0, 1)
        loss = self.loss(flat, targets.flatten())
        self._metrics(self.metrics, stage).update(loss, flat, targets.flatten())
        if stage != "train":
            self._metrics(self.perplexity, stage).update(logits, targets)
        return loss

    def _log(self, stage: str, on_step: bool = False) -> None:
        metrics = self._metrics(self.metrics, stage)
        values = {f"{stage}/{key}": value for key, value in metrics.compute().items()}
        metrics.reset()
        if not on_step:
            perplexity = self._metrics(self.perplexity, stage)
            values[f"{stage}/perplexity"] = perplexity.compute()
            perplexity.reset()
        self.log_dict(values, on_step=on_step, on_epoch=not on_step, sync_dist=not on_step)

    @staticmethod
    def _metrics(metrics: nn.ModuleDict, stage: str) -> Any:
        return metrics[f"{stage}_metrics"]
