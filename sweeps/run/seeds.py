"""One seed for every source of randomness."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng

SOURCES = ("init", "order", "augmentation", "dropout", "rounding")
DATA_SEEDS = {"order": "order_seed", "augmentation": "augmentation_seed"}
"""Arguments of the data module by source."""


class Seeds(Callback):
    """Seed each source of randomness separately.

    Each seed defaults to that of ``seed_everything``; the sources then draw from separate streams. The order and each
    augmentation use a generator keyed by (seed, epoch, purpose), rounding noise uses its own generator, and the initial
    weights use PyTorch's global generator. Dropout uses the global generator in its state after the initialisation by
    ``seed_everything``, whatever ``init`` is. So changing one seed changes no draw of any other source. Every seed is
    the same on every rank, except that a given dropout seed gives each rank different masks.
    The seeds in use are logged as ``seeds/<source>`` with the run's hyperparameters.

    Args:
        init: Initial weights.
        order: Order of the training samples.
        augmentation: Crops, flips, cutouts and mixing partners.
        dropout: Dropout, and everything else that draws from PyTorch's global generator during training.
        rounding: Rounding noise on the gradients.

    Raises:
        ValueError: If a seed is negative.
    """

    def __init__(
        self,
        init: int | None = None,
        order: int | None = None,
        augmentation: int | None = None,
        dropout: int | None = None,
        rounding: int | None = None,
    ) -> None:
        self.given = dict(zip(SOURCES, (init, order, augmentation, dropout, rounding), strict=True))
        for name, seed in self.given.items():
            if seed is not None and seed < 0:
                raise ValueError(f"seeds.{name} must be 0 or more, got {seed}")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the seeds in use."""
        common = int(os.environ.get("PL_GLOBAL_SEED", 0))
        facts: dict[str, Any] = {f"seeds/{name}": common if s is None else s for name, s in self.given.items()}
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the global generator for dropout; a resumed run's generator is restored after this."""
        seed = self.given["dropout"]
        if seed is not None:
            stream = np.random.SeedSequence([seed, trainer.global_rank, int.from_bytes(b"dropout", "big")])
            torch.manual_seed(int(stream.generate_state(1)[0]))


def initialize_apart(model: LightningModule, seed: int, build: Callable[[], LightningModule]) -> None:
    """Set a model's initial weights to those of another seed, without advancing any generator.

    Args:
        model: Built already, from ``seed_everything``.
        seed: Seed of the initial weights.
        build: Builds another such model.
    """
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        model.load_state_dict(build().state_dict())
