"""LanguageModel: next-token loss, perplexity and optimiser of all language models, without architecture."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.text import Perplexity

from symbreak.lightning_modules.checks import check_range
from symbreak.lightning_modules.mixture import MixtureOfExperts
from symbreak.lightning_modules.supervised import Stage, SupervisedModule

ADAMW_DEFAULTS: dict[str, Any] = {"lr": 3e-3, "weight_decay": 0.1}


class LanguageModel(SupervisedModule):
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
        self.perplexity = nn.ModuleDict({"val": Perplexity(), "test": Perplexity()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with `ADAMW_DEFAULTS`, used unless the command line sets an optimiser."""
        return torch.optim.AdamW(self.parameters(), **ADAMW_DEFAULTS)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean next-token cross-entropy of a batch plus the weighted load-balance losses."""
        loss = super().training_step(batch)
        if self.balance:
            losses = [each.balance_loss for each in self.modules() if isinstance(each, MixtureOfExperts)]
            loss = loss + self.balance * sum(losses, loss.new_zeros(()))
        return loss

    def update_metrics(self, stage: Stage, logits: Tensor, targets: Tensor) -> Tensor:
        """Add a batch to the metrics of a stage and return its mean next-token cross-entropy."""
        if stage in self.perplexity:
            self._perplexity(stage).update(logits, targets)
        return super().update_metrics(stage, logits.flatten(0, 1), targets.flatten())

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """Return the metrics of a stage by name, and reset them; perplexity except in training."""
        values = super().compute_metrics(stage)
        if stage in self.perplexity:
            values["perplexity"] = self._perplexity(stage).compute()
            self._perplexity(stage).reset()
        return values

    def _perplexity(self, stage: Stage) -> Any:
        return self.perplexity[stage]
