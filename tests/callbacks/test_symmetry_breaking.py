import pytest
import torch
from tests.callbacks.training import Wrapped, train
from torch import nn

from symbreak.callbacks import SymmetryBreaking


class Equal(nn.Module):
    """A convolution, a block and a head whose channels all start out equal."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, bias=False)
        self.hidden = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, bias=False), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 16, 10)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.01)

    def forward(self, x):
        return self.head(self.hidden(self.stem(x)))


def test_equal_channels_are_exactly_symmetric_and_never_broken():
    callback = SymmetryBreaking(every_n_steps=1)
    network = Equal()
    network.head.requires_grad_(False)
    _, logger = train(Wrapped(network), [callback])
    assert set(logger.series("symmetry/max_feature_asymmetry").values()) == {0.0}
    assert set(logger.series("symmetry/distinct_filters/network.stem").values()) == {1.0}
    assert list(logger.series("symmetry/distinct_filters/network.stem")) == [0, 1, 2, 3, 4]
    assert callback.history.broken_step is None
    assert not {"symmetry/broken_step", "symmetry/escape_step", "symmetry/growth_rate"} & logger.keys("symmetry")


def test_the_step_of_a_break_is_found_and_the_head_does_not_count():
    class Kick(Wrapped):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.global_step == 3:
                with torch.no_grad():
                    self.network.hidden[1].weight[2] *= 1 + 1e-6

    network = Equal()
    network.stem.requires_grad_(False)
    network.hidden.requires_grad_(False)
    callback = SymmetryBreaking(every_n_steps=1)
    _, logger = train(Kick(network), [callback], steps=6)
    assert logger.series("symmetry/broken_step/network.head") == {1: 1}
    assert logger.series("symmetry/broken_step/network.hidden.1") == {3: 3}
    assert logger.series("symmetry/broken_step") == {3: 3}
    assert callback.history.broken_step == 3
    assert "symmetry/feature_asymmetry/network.head" not in logger.keys("symmetry")
    assert 0 < logger.series("symmetry/max_feature_asymmetry")[3] < 1e-6


def test_escape_and_growth_are_read_off_an_exponential_rise():
    class Grow(Wrapped):
        def on_train_batch_start(self, batch, batch_idx):
            with torch.no_grad():
                self.network.stem.weight[0] = 0.01 * (1 + 1e-7 * 2.0**self.global_step)

    network = Equal()
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    callback = SymmetryBreaking(every_n_steps=1)
    _, logger = train(Grow(network), [callback], steps=30)
    values = logger.series("symmetry/feature_asymmetry/network.stem")
    assert callback.history.escape_step == next(step for step, value in values.items() if value >= 0.1)
    assert list(logger.series("symmetry/growth_rate/network.stem").values()) == pytest.approx([0.693], abs=0.01)
    assert min(logger.series("symmetry/growth_rate_r2").values()) > 0.99


class Tokens(nn.Module):
    """Images to patches (N, 4, C): a convolution, then a linear map of the last axis."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.linear = nn.Linear(6, 8)
        self.head = nn.Linear(8, 10)
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.constant_(self.linear.bias, 0.1)

    def forward(self, x):
        return self.head(self.linear(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def test_the_channel_axis_follows_the_kind_of_layer():
    _, logger = train(Wrapped(Tokens()), [SymmetryBreaking(every_n_steps=1)], steps=1)
    assert logger.series("symmetry/feature_asymmetry/network.linear")[0] < 1e-6
    assert logger.series("symmetry/feature_asymmetry/network.patches")[0] > 0.1


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        SymmetryBreaking(threshold=1.5)


def test_the_state_survives_a_resume(tmp_path):
    network, resumed = Wrapped(Equal()), SymmetryBreaking(every_n_steps=1)
    trainer, first = train(network, [SymmetryBreaking(every_n_steps=1)], steps=4)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, second = train(network, [resumed], steps=6, ckpt_path=tmp_path / "a.ckpt")
    assert first.series("symmetry/broken_step/network.head") == {1: 1}
    assert resumed.history.broken_steps["network.head"] == 1
    assert "symmetry/broken_step/network.head" not in second.keys("symmetry")
    assert list(second.series("symmetry/weight_asymmetry")) == [4, 5, 6]
