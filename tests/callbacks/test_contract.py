"""What every measuring callback promises, whatever it measures."""

import math
import re
from functools import partial
from typing import Any, cast

import pytest
import torch
from pytorch_lightning import LightningModule
from tests.callbacks.training import Wrapped, images, train
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from symbreak.callbacks import (
    ExactResume,
    FeatureDiversity,
    LotteryTicket,
    RankTrajectory,
    RoundingNoise,
    SignalPropagation,
    StopAtLevel,
    SymmetryBreaking,
    weights,
)

CALLBACKS = [FeatureDiversity, RankTrajectory, SignalPropagation, SymmetryBreaking]
EVENTS = ("broken_step", "escape_step", "diverged_step", "growth_rate", "growth_rate_r2", "epochs_to_break")
RARE = {f"symmetry/{name}" for name in EVENTS}


def small_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 10))


def vision_transformer():
    return VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


def documented(callback):
    """Keys of the docstring's table; <layer> stands for any layer."""
    return set(re.findall(r"``([a-z_]+/[a-z_0-9]+(?:/<layer>)?)``", callback.__doc__))


def logged(callback, logger):
    keys = logger.keys(callback.family)
    return {"/".join((*key.split("/")[:2], "<layer>")) if key.count("/") > 1 else key for key in keys}


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("network", [resnet18, vision_transformer])
def test_a_network_of_somebody_else_is_measured_by_adding_one_callback(kind, network):
    module = Wrapped(network())
    few = ["network.layer1.*"] if kind is RankTrajectory and network is resnet18 else []  # decompositions take seconds
    _, logger = train(module, [kind(every_n_steps=1, include=few)], steps=1, loader=images(4, batch_size=4))
    keys = logged(kind, logger)
    assert documented(kind) >= keys >= documented(kind) - {*RARE, *(f"{key}/<layer>" for key in RARE)}
    values = {key: value for _, row in logger.rows for key, value in row.items() if key.startswith(kind.family)}
    assert all(value == value for value in values.values())
    assert hooks_of(module) == 0


@pytest.mark.parametrize("kind", CALLBACKS)
def test_every_documented_key_is_logged_and_no_other(kind):
    class Growing(Wrapped):
        def on_train_batch_start(self, batch, batch_idx):
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(0.01)
                self.network[0].weight[0] += 1e-8 * 4.0**self.global_step if self.global_step < 13 else torch.nan

        def validation_step(self, batch, batch_idx):
            self.log("val/accuracy", 0.9)

    callback = kind(every_n_steps=1)
    often = {"val_loader": images(16), "val_check_interval": 2}
    _, logger = train(Growing(small_network(), 0.0), [callback], steps=14, **often)
    assert logged(kind, logger) == documented(kind)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_hooks_exist_in_measured_batches_only(kind):
    counts = []

    class Counting(Wrapped):
        def training_step(self, batch, batch_idx):
            counts.append(hooks_of(self))
            return super().training_step(batch, batch_idx)

    module = Counting(small_network())
    train(module, [kind(every_n_steps=2)], steps=4)
    attached = 0 if kind is RankTrajectory else 3
    assert counts == [attached, 0, attached, 0]
    assert hooks_of(module) == 0


def test_all_together_hook_each_layer_once_and_read_each_weight_once_a_step(monkeypatch):
    reads, hooks = [], []

    class Counting(Wrapped):
        def training_step(self, batch, batch_idx):
            hooks.append(hooks_of(self))
            return super().training_step(batch, batch_idx)

    real = weights.read
    monkeypatch.setattr(weights, "read", lambda layer, name: reads.append(layer) or real(layer, name))
    module = Counting(small_network())
    train(module, [kind(every_n_steps=1) for kind in (FeatureDiversity, SymmetryBreaking, SignalPropagation)], steps=2)
    assert hooks == [3, 3]
    assert len(reads) == 3 * (2 + 2)  # two steps, and two callbacks with weights at the end


@pytest.mark.parametrize("kind", CALLBACKS)
def test_an_exception_leaves_no_hook_and_loses_no_finished_measurement(kind):
    class Failing(Wrapped):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.global_step == 3:
                raise RuntimeError("on purpose")
            return loss

    module, rows = Failing(small_network()), []

    class Keep(kind):
        def flush(self, trainer):
            super().flush(trainer)
            rows.extend(step for step, _ in trainer.logger.rows)

    with pytest.raises(RuntimeError, match="on purpose"):
        train(module, [Keep(every_n_steps=1)], steps=5, log_every_n_steps=50)
    assert sorted(set(rows)) == [0, 1, 2]
    assert hooks_of(module) == 0


@pytest.mark.parametrize("kind", CALLBACKS)
def test_validation_and_the_sanity_check_are_ignored(kind):
    seen = []

    class Watching(Wrapped):
        def validation_step(self, batch, batch_idx):
            seen.append(hooks_of(self))
            return super().validation_step(batch, batch_idx)

    def series(**options):
        torch.manual_seed(0)
        _, logger = train(Watching(small_network()), [kind(every_n_steps=1)], steps=4, **options)
        return [row for row in logger.rows if any(key.startswith(kind.family) for key in row[1])]

    torch.manual_seed(0)
    module = Watching(small_network())
    module.val_dataloader = images
    _, logger = train(module, [kind(every_n_steps=1)], steps=4, num_sanity_val_steps=2, val_check_interval=2)
    assert seen
    assert set(seen) == {0}
    assert [row for row in logger.rows if any(key.startswith(kind.family) for key in row[1])] == series()


@pytest.mark.parametrize("kind", CALLBACKS)
def test_accumulated_gradients_count_as_one_step(kind):
    _, logger = train(Wrapped(small_network()), [kind(every_n_steps=1)], steps=3, accumulate_grad_batches=2)
    steps = [step for step, row in logger.rows if any(key.startswith(kind.family) for key in row)]
    last = [] if kind is SignalPropagation else [3]
    assert steps == [0, 1, 2, *last]


class TwoOptimisers(LightningModule):
    """Two halves with an optimiser each, both stepped in every batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), nn.Linear(6, 10)

    def training_step(self, batch, batch_idx):
        self.manual_backward(cross_entropy(self.head(self.body(batch[0])), batch[1]))
        for optimiser in cast(list, self.optimizers()):
            optimiser.step()
            optimiser.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(half.parameters(), lr=0.1) for half in (self.body, self.head)]


@pytest.mark.parametrize("kind", CALLBACKS)
def test_several_optimisers_let_the_step_jump(kind):
    _, logger = train(TwoOptimisers(), [kind(every_n_steps=3)], steps=12)
    steps = [step for step, row in logger.rows if any(key.startswith(kind.family) for key in row)]
    last = [] if kind is SignalPropagation else [12]
    assert steps == [0, 4, 6, 10, *last]


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "bf16-mixed"])
def test_every_precision_is_measured(kind, precision):
    _, logger = train(Wrapped(small_network(), 1e-3), [kind(every_n_steps=1)], steps=2, precision=precision)
    values = [row[key] for key in logger.keys(kind.family) for _, row in logger.rows if key in row]
    assert len(values) > 4
    assert all(value == value for value in values)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_measuring_changes_no_bit_of_the_training(kind):
    def weights(callbacks):
        torch.manual_seed(0)
        network = nn.Sequential(small_network()[:3], nn.Dropout(0.5), spectral_norm(nn.Linear(144, 10)))
        module = Wrapped(network)
        train(module, callbacks, steps=5)
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    assert torch.equal(weights([]), weights([kind(every_n_steps=1)]))


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_second_fit_starts_afresh_and_a_resumed_one_goes_on(kind, tmp_path):
    callback = kind(every_n_steps=2)
    trainer, _ = train(Wrapped(small_network()), [callback], steps=3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
    assert any(kind.__name__ in key for key in state)
    _, again = train(Wrapped(small_network()), [callback], steps=3)
    assert [step for step, _ in again.rows][:2] == [0, 2]
    _, resumed = train(Wrapped(small_network()), [kind(every_n_steps=2)], steps=6, ckpt_path=tmp_path / "a.ckpt")
    last = [] if kind is SignalPropagation else [6]
    assert [step for step, _ in resumed.rows] == [4, *last]


@pytest.mark.parametrize("kind", CALLBACKS)
def test_patterns_restrict_the_layers(kind):
    _, logger = train(Wrapped(small_network()), [kind(every_n_steps=1, include=["*.3"])], steps=1)
    layers = {key.split("/")[2] for key in logger.keys(kind.family) if key.count("/") > 1}
    assert layers == {"network.3"}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_network_without_layers_is_refused(kind):
    class Nothing(Wrapped):
        def __init__(self):
            super().__init__(nn.BatchNorm2d(3))

    with pytest.raises(ValueError, match="finds no layer to measure in Nothing"):
        train(Nothing(), [kind()])


RANGES: list[tuple[Any, str, tuple[Any, ...], tuple[Any, ...]]] = [
    *((kind, "every_n_steps", (0, -1), (1, None)) for kind in CALLBACKS),
    *((kind, "samples", (0, -3), (1,)) for kind in CALLBACKS if kind is not RankTrajectory),
    (FeatureDiversity, "per_doubling", (0, -1), (1,)),
    (RankTrajectory, "per_doubling", (0, -1), (1,)),
    (SymmetryBreaking, "threshold", (0, 1, -0.1, math.nan), (1e-9, 0.999)),
    (SymmetryBreaking, "stop_after_break", (-1,), (0, None)),
    (RoundingNoise, "ulps", (-1, math.nan, math.inf), (0, 1e-3)),
    (ExactResume, "every_n_steps", (-1,), (0,)),
    (partial(StopAtLevel, 0.9), "times", (0, -1), (1,)),
    (LotteryTicket, "amount", (0, 1, math.nan), (0.01, 0.99)),
    (LotteryTicket, "rounds", (0, -1), (1,)),
    (LotteryTicket, "every_n_epochs", (0, -1), (1,)),
]
"""Callback, argument, values that are refused, and values at the edge that are allowed."""


@pytest.mark.parametrize(("kind", "name", "refused", "allowed"), RANGES)
def test_every_number_has_its_range(kind, name, refused, allowed):
    for value in refused:
        with pytest.raises(ValueError, match=str(value)):
            kind(**{name: value})
    for value in allowed:
        kind(**{name: value})
