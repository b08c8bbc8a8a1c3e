"""Messages about events during training: progress display, log, W&B alert."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info


def announce(trainer: Trainer, title: str, text: str) -> None:
    """Print a line above the progress bar, or to the log if there is none, and alert an online W&B run.

    Does nothing on ranks other than 0.
    """
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if bar is not None and _is_open(bar):
        bar.print(text)
    else:
        rank_zero_info(text)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and not (logger.experiment.offline or logger.experiment.disabled):
            logger.experiment.alert(title, text)


def _is_open(bar: ProgressBar) -> bool:
    """Return whether the bar prints lines: a closed or never drawn bar drops them."""
    if not isinstance(bar, TQDMProgressBar):
        return getattr(bar, "is_enabled", True)
    try:
        return not bar.train_progress_bar.disable
    except TypeError:  # no bar yet
        return False
