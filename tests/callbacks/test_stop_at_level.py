import pytest
import torch
from tests.callbacks.training import Wrapped, images, train
from torch import nn

from symbreak.callbacks import StopAtLevel, SymmetryBreaking


class Scripted(Wrapped):
    """Logs accuracies from a list, one for each validation."""

    def __init__(self, accuracies):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
        self.accuracies = iter(accuracies)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/accuracy", next(self.accuracies))

    def val_dataloader(self):
        return images(16)


@pytest.mark.parametrize(("times", "stopped"), [(1, 1), (2, 3), (3, 4), (9, 6)])
def test_it_stops_after_the_level_was_exceeded_often_enough(times, stopped):
    callback = StopAtLevel(0.9, times)
    trainer, _ = train(Scripted([0.95, 0.9, 0.91, 0.99, 0.2, 0.3]), [callback], steps=6, val_check_interval=1)
    assert trainer.global_step == stopped


def test_the_count_survives_a_resume(tmp_path):
    trainer, _ = train(Scripted([0.95, 0.5]), [StopAtLevel(0.9, 2)], steps=2, val_check_interval=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    callback = StopAtLevel(0.9, 2)
    path = tmp_path / "a.ckpt"
    trainer, _ = train(Scripted([0.5, 0.95, 0.5, 0.5]), [callback], steps=6, val_check_interval=1, ckpt_path=path)
    assert (callback.exceeded, trainer.global_step) == (2, 4)


def test_a_metric_that_nobody_logs_is_named():
    with pytest.raises(ValueError, match="waits for 'val/f1', but the metrics logged are val/accuracy"):
        train(Scripted([0.5] * 9), [StopAtLevel(0.9, metric="val/f1")], val_check_interval=1)
    with pytest.raises(ValueError, match="times must be at least 1"):
        StopAtLevel(0.9, 0)


class Kicked(Wrapped):
    """Equal channels, one of which moves at step 3."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10)), 0.0)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.01)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 3:
            with torch.no_grad():
                next(self.parameters())[2] += 0.5


@pytest.mark.parametrize(("after", "stopped"), [(0, 4), (5, 8), (None, 12)])
def test_it_stops_after_symmetry_broke(after, stopped):
    callback = SymmetryBreaking(every_n_steps=1, stop_after_break=after)
    trainer, _ = train(Kicked(), [callback], steps=12, log_every_n_steps=4)
    assert (callback.history.broken_step, trainer.global_step) == (3, stopped)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="stop_after_break must be at least 0"):
        SymmetryBreaking(stop_after_break=-1)
