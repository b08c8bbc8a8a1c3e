import math

import pytest
import torch
from tests.callbacks.training import Wrapped, images, train
from torch import nn

from symbreak.callbacks import SymmetryBreaking
from symbreak.callbacks.symmetry_history import SymmetryHistory
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import ConstNet


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


def test_a_level_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="accuracy_level must be between 0 and 1"):
        SymmetryBreaking(accuracy_level=1)


class Scripted(Wrapped):
    """Validation accuracies as given, one an epoch."""

    accuracies = (0.4, 0.6, 0.7, 0.5, 0.8, 0.6, 0.9)

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", self.accuracies[self.current_epoch])


def scripted(epochs, callback, **options):
    settings = {"max_epochs": epochs, "limit_train_batches": 1, "limit_val_batches": 1}
    return train(Scripted(Equal()), [callback], steps=-1, val_loader=images(), **settings, **options)


def test_epochs_to_break_is_the_epoch_of_the_fourth_accuracy_above_the_level():
    callback = SymmetryBreaking()
    _, logger = scripted(7, callback)
    assert logger.series("symmetry/epochs_to_break") == {6: 6}
    assert callback.history.epochs_to_break == 6
    _, higher = scripted(7, SymmetryBreaking(accuracy_level=0.65))
    assert higher.series("symmetry/epochs_to_break") == {}


def test_validations_above_the_level_are_counted_across_a_resume(tmp_path):
    trainer, _ = scripted(3, SymmetryBreaking())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = SymmetryBreaking()
    scripted(7, resumed, ckpt_path=tmp_path / "a.ckpt")
    assert resumed.history.epochs_to_break == 6


def test_epochs_to_break_of_a_network_that_learns_digits():
    callback = SymmetryBreaking(accuracy_level=0.3)
    network = ConstNet(depth=7, widen_factor=1, in_channels=1, init="he")
    trainer, logger = train(network, [callback], steps=-1, loader=DigitsDataModule(), max_epochs=12)
    above = [step for step, accuracy in logger.series("val/accuracy").items() if accuracy > 0.3]
    assert len(above) >= 4
    assert callback.history.epochs_to_break == (above[3] + 1) // trainer.num_training_batches


def test_the_state_survives_a_resume(tmp_path):
    network, resumed = Wrapped(Equal()), SymmetryBreaking(every_n_steps=1)
    trainer, first = train(network, [SymmetryBreaking(every_n_steps=1)], steps=4)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, second = train(network, [resumed], steps=6, ckpt_path=tmp_path / "a.ckpt")
    assert first.series("symmetry/broken_step/network.head") == {1: 1}
    assert resumed.history.broken_steps["network.head"] == 1
    assert "symmetry/broken_step/network.head" not in second.keys("symmetry")
    assert list(second.series("symmetry/weight_asymmetry")) == [4, 5, 6]


class Tied(nn.Module):
    """One linear map runs first and last."""

    def __init__(self):
        super().__init__()
        self.shared, self.hidden = nn.Linear(10, 10), nn.Linear(10, 10)

    def forward(self, x):
        return self.shared(torch.relu(self.hidden(torch.relu(self.shared(x.flatten(1)[:, :10])))))


def test_the_output_layer_is_the_one_that_ran_last_even_if_it_ran_first_too():
    callback = SymmetryBreaking(every_n_steps=1)
    _, logger = train(Wrapped(Tied()), [callback], steps=2)
    assert callback.output_layers() == ["network.shared", "network.shared"]
    assert {key for key in logger.keys("symmetry") if "feature_asymmetry/" in key} == {
        "symmetry/feature_asymmetry/network.hidden"
    }
    assert list(logger.series("symmetry/broken_step").values()) == [0]


def test_a_tied_weight_counts_once_in_the_mean():
    one, other, head = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 10)
    other.weight = one.weight
    nn.init.zeros_(head.weight)
    network = nn.Sequential(nn.Flatten(), one, nn.ReLU(), other, head)
    _, logger = train(Wrapped(network, 0.0), [SymmetryBreaking(every_n_steps=1)], steps=1)
    assert "symmetry/distinct_filters/network.3" not in logger.keys("symmetry")
    assert "symmetry/feature_asymmetry/network.3" in logger.keys("symmetry")
    assert logger.series("symmetry/distinct_filters")[0] == (192 + 1) / 2


@pytest.mark.parametrize("values", [(0.5, math.nan), (math.nan, 0.5), (math.inf, 0.5), (0.5, math.inf)])
def test_divergence_is_an_event_and_no_escape_in_any_order_of_layers(values):
    history = SymmetryHistory(0.1)
    history.add(0, {}, {"a": 1e-7, "b": 1e-7}, ["a", "b"])
    found = history.add(7, {}, dict(zip("ab", values, strict=True)), ["a", "b"])
    assert found == {("diverged_step", None): 7}
    assert (history.escape_step, history.diverged_step) == (None, 7)
    assert [title for title, _ in history.events] == ["Training diverged"]
    again = SymmetryHistory(0.1)
    again.load_state_dict(history.state_dict())
    assert again.add(8, {}, dict(zip("ab", values, strict=True)), ["a", "b"]) == {}


def test_weights_that_are_no_numbers_at_the_end_are_seen():
    class Diverging(Wrapped):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.global_step == 3:
                with torch.no_grad():
                    self.network.stem.weight[0] = torch.nan

    callback = SymmetryBreaking(every_n_steps=1)
    _, logger = train(Diverging(Equal()), [callback], steps=3)
    assert logger.series("symmetry/diverged_step") == {3: 3}


def test_what_has_no_second_channel_has_no_asymmetry():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Linear(1, 10))
    _, logger = train(Wrapped(network), [SymmetryBreaking(every_n_steps=1)], steps=1)
    keys = {key.split("/")[1] for key in logger.keys("symmetry") if key.endswith("/network.1")}
    assert keys & {"weight_asymmetry", "feature_asymmetry"} == set()
    assert "distinct_filters" in keys
