"""Stop training once a validation metric has exceeded a level a number of times."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from symbreak.callbacks.announce import announce


class StopAtLevel(Callback):
    """Stop training after a validation metric has exceeded a level a number of times, not necessarily in a row.

    Args:
        level: value that the metric must exceed.
        times: number of validations in which it must.
        metric: key of the metric, as logged by the LightningModule.

    Raises:
        ValueError: if ``times`` is not positive, or the metric is not logged.
    """

    def __init__(self, level: float, times: int = 1, metric: str = "val/accuracy") -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        self.level, self.times, self.metric = level, times, metric
        self.exceeded = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count validations above the level; stop when there are enough."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.metric not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"StopAtLevel waits for {self.metric!r}, but the metrics logged are {logged}")
        self.exceeded += bool(trainer.callback_metrics[self.metric] > self.level)
        if trainer.strategy.reduce_boolean_decision(self.exceeded >= self.times, all=False) and not trainer.should_stop:
            trainer.should_stop = True
            text = (
                f"stopping at step {trainer.global_step}: {self.metric} has exceeded {self.level} {self.exceeded} times"
            )
            announce(trainer, "Level reached", text)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations above the level."""
        return {"exceeded": self.exceeded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations above the level."""
        self.exceeded = state_dict["exceeded"]
