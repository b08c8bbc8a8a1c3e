"""Lines of progress for an output that is not a terminal, such as the log of a cluster job."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from symbreak.sweeps.run.logger import RunLogger

SECONDS = 30.0


class ProgressLines(Callback):
    """Print the step and the latest logged loss after the first step, then every ``seconds``.

    Args:
        seconds: Time between two lines.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._last = float("-inf")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is due; the loss is the logged value on the host, so nothing synchronises."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._last < self.seconds:
            return
        self._last = now
        last = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        epochs = f" of {trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        loss = next((each.summary.get("train/loss") for each in trainer.loggers if isinstance(each, RunLogger)), None)
        shown = "" if loss is None else f", train/loss {loss:.4g}"
        print(f"step {trainer.global_step}{last}, epoch {trainer.current_epoch + 1}{epochs}{shown}", flush=True)
