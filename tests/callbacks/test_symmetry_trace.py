"""Each break is put there by the test; the callback must name it, and change nothing."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from tests.callbacks.training import MemoryLogger, Wrapped, images, train
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from symbreak.callbacks import Determinism, RoundingNoise, SymmetryTrace
from symbreak.lightning_modules import MLP, ConstNet

small = partial(ConstNet, depth=7, widen_factor=1)


def fit(module, callbacks=(), steps=4, replays=3, **options):
    watch = SymmetryTrace(replays)
    trainer, _ = train(module, [Determinism("strict"), *callbacks, watch], steps, **options)
    return watch, trainer


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_zero_init_in_strict_float32_has_no_finding():
    watch, _ = fit(small(), steps=6)
    assert watch.initial is None
    assert watch.found is None
    step, trace = watch.traces[0]
    assert step == 1
    assert {(change.weight, change.axis) for change in trace.changes} == {("head.weight", 0)}  # labels


def test_initial_noise_is_found_at_the_start():
    watch, _ = fit(small(noise_scale=1e-3))
    assert watch.initial is not None
    assert "blocks.0.conv.weight" in watch.initial.weights
    assert "head.weight" not in watch.initial.weights
    assert str(watch.initial).startswith("symmetry was broken from the start: initial weights differ in stem.weight")
    assert watch.found is None


def test_dropout_is_found_when_it_reaches_weights():
    watch, _ = fit(small(dropout=0.1))
    assert watch.found is not None
    assert watch.found.step == 2
    cause = watch.found.trace.cause
    assert cause is not None
    assert (cause.kind, cause.operation, cause.place.phase) == ("randomness", "aten::bernoulli_", "forward")
    assert cause.place.module.startswith("blocks.")
    assert (watch.found.replays, watch.found.shown, watch.found.exact) == (1, 1, True)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_rounding_noise_is_found_in_its_callback(accumulate):
    watch, _ = fit(small(), [RoundingNoise(1)], accumulate_grad_batches=accumulate, steps=2)
    assert watch.found is not None
    cause = watch.found.trace.cause
    assert cause is not None
    assert (cause.kind, cause.place.phase) == ("randomness", "between backward and optimizer")
    assert cause.place.line is not None
    assert cause.place.line.function.startswith("RoundingNoise.")
    assert watch.found.exact


def test_a_callback_that_edits_gradients_is_found_with_its_line():
    class Edit(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 2:
                pl_module.get_parameter("stem.weight").grad[3] += 1  # pyright: ignore

    watch, _ = fit(small(), [Edit()])
    assert watch.found is not None
    assert (watch.found.step, watch.found.weights) == (3, ("stem.weight",))
    cause = watch.found.trace.cause
    assert cause is not None
    assert cause.kind == "values"
    assert cause.place.line is not None
    assert cause.place.line.function.endswith("Edit.on_after_backward")


class Pixels(LightningModule):
    """A perceptron with equal hidden units, on images of which more pixels are used in every batch."""

    def __init__(self, make_optimizer):
        super().__init__()
        self.network, self.make_optimizer = MLP(depth=3, width=16, in_channels=1), make_optimizer
        for layer in self.network.layers[::2]:
            nn.init.constant_(layer.get_parameter("weight"), 0.1)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())

    def train_dataloader(self):
        data = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        for first in range(0, 64, 16):
            data[first : first + 16, :, 2 + first // 16 :] = 0
        return DataLoader(TensorDataset(data, torch.arange(64) % 10), batch_size=16)


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW, foreach": partial(torch.optim.AdamW, foreach=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pixels_that_differ_in_the_optimizers_state_are_explained_by_earlier_batches(optimizer):
    module = Pixels(OPTIMIZERS[optimizer])
    watch, _ = fit(module, loader=module.train_dataloader())
    assert watch.found is None
    assert len(watch.traces) > 1  # more pixels differ after every batch
    assert {(change.weight, change.axis) for _, trace in watch.traces for change in trace.changes} == {
        ("network.layers.0.weight", 1),
        ("network.layers.4.weight", 0),
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizers_state_edited_for_one_filter_is_found(optimizer):
    class Edit(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                state = trainer.optimizers[0].state[pl_module.get_parameter("network.layers.0.weight")]
                state["exp_avg" if "exp_avg" in state else "momentum_buffer"][3] += 1

    module = Pixels(OPTIMIZERS[optimizer])
    watch, _ = fit(module, [Edit()], loader=module.train_dataloader())
    assert watch.found is not None
    assert (watch.found.step, watch.found.weights[0]) == (3, "network.layers.0.weight")
    cause = watch.found.trace.cause
    assert cause is not None
    assert (cause.kind, cause.axis) == ("values", 0)
    assert cause.subject.endswith(" of network.layers.0.weight")


def test_weights_edited_between_steps_are_said_to_differ_before_the_step():
    class Edit(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                with torch.no_grad():
                    pl_module.get_parameter("stem.weight")[3] += 1

    watch, _ = fit(small(), [Edit()])
    assert watch.found is not None
    assert "weights differed before it began, in stem.weight" in str(watch.found)


def test_what_replays_do_not_show_is_said_with_their_number():
    class Once(Wrapped):
        broken = False

        def on_after_backward(self):
            if self.global_step == 2 and not self.broken:
                self.broken = True
                self.network.stem.weight.grad[3] += 1

    watch, _ = fit(Once(small(), 0.01), replays=2)
    assert watch.found is not None
    assert (watch.found.replays, watch.found.shown, watch.found.exact) == (2, 0, False)
    assert "in none of 2 replays" in str(watch.found)


def test_an_operation_that_breaks_symmetry_in_some_replays_is_counted():
    class Sometimes(Wrapped):
        calls = 0

        def on_after_backward(self):
            if self.global_step == 2:
                self.calls += 1
                if self.calls in (1, 3):
                    self.network.stem.weight.grad[3] += 1

    watch, _ = fit(Sometimes(small(), 0.01))
    assert watch.found is not None
    assert (watch.found.replays, watch.found.shown) == (3, 1)
    assert str(watch.found).endswith(", in 1 of 3 replays (the replay gave other weights than the step)")


class TwoOptimizers(LightningModule):
    """Manual optimisation; the gradients of each half are those of one loss, and are left where they are."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(216, 10)
        for parameter in self.body.parameters():
            nn.init.constant_(parameter, 0.1)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 10)[:, None].expand(10, 216))

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers()  # pyright: ignore
        one.zero_grad()
        self.manual_backward(cross_entropy(self.head(self.body(batch[0])), batch[1]))
        for optimizer in (one, two):
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.body.parameters()), torch.optim.SGD(self.head.parameters(), 0.1, 0.9)]


class Checkpointed(Wrapped):
    def training_step(self, batch, batch_idx):
        features = checkpoint(self.network.stem, batch[0], use_reentrant=False)
        features = checkpoint(self.network.blocks, features, use_reentrant=False)
        return cross_entropy(self.network.head(features.mean((2, 3))), batch[1])


def scaled(scale=2.0**16):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))  # pyright: ignore


MODULES = {
    "dropout": lambda: small(dropout=0.1),
    "two optimizers": TwoOptimizers,
    "checkpointing": lambda: Checkpointed(small(dropout=0.1), 0.03),
}


OPTIONS = {
    "plain": dict,
    "accumulation": lambda: {"accumulate_grad_batches": 2},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "GradScaler": lambda: {"plugins": [scaled()]},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MODULES)
def test_watching_and_replaying_change_no_bit_and_find_the_dropout(name, options):
    if name == "two optimizers" and options == "accumulation":
        pytest.skip("under manual optimisation the module accumulates by itself")

    def train_once(replays):
        torch.manual_seed(1)
        module = MODULES[name]()
        watch, trainer = fit(module, replays=replays, **OPTIONS[options]())
        return watch, weights(module), (trainer.global_step, torch.rand(1))

    watch, watched, others = train_once(3)
    _, plain, expected = train_once(0)
    assert torch.equal(watched, plain)
    assert others == expected
    assert watch.found is not None
    assert watch.found.exact
    cause = watch.found.trace.cause
    assert cause is not None
    assert cause.kind == "randomness"


def test_noise_between_unscaling_and_the_update_is_found_in_its_callback():
    watch, _ = fit(small(), [RoundingNoise(1)], plugins=[scaled()], steps=2)
    assert watch.found is not None
    cause = watch.found.trace.cause
    assert cause is not None
    assert cause.place.phase == "between backward and optimizer"
    assert cause.place.line is not None
    assert cause.place.line.function.startswith("RoundingNoise.")
    assert watch.found.exact


def test_a_step_that_the_scaler_skips_is_replayed_as_skipped():
    watch = SymmetryTrace(traced_steps=2)
    module = small(dropout=0.1)
    before = weights(module)
    train(module, [watch], 2, plugins=[scaled(2.0**60)])  # float16 overflows
    assert torch.equal(weights(module), before)
    assert watch.found is None
    assert [trace.changes for _, trace in watch.traces] == [[], []]


def test_of_two_optimizers_the_one_that_draws_random_numbers_is_named():
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            result = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter += 1e-3 * torch.randn(parameter.shape)
            return result

    class Second(TwoOptimizers):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.head.parameters(), 0.1), Noisy(self.body.parameters(), 0.1)]

    module = Second()
    module.body[1] = nn.Identity()
    watch, _ = fit(module)
    assert watch.found is not None
    assert "body.0.weight" in watch.found.weights
    cause = watch.found.trace.cause
    assert cause is not None
    assert (cause.kind, cause.operation, cause.place.phase) == ("randomness", "aten::randn", "optimizer")
    assert cause.place.line is not None
    assert cause.place.line.function.endswith("Noisy.step")


def test_metrics_are_not_counted_twice():
    def logged(replays):
        module = small(dropout=0.1)
        torch.manual_seed(0)
        _, logger = train(module, [SymmetryTrace(replays)], steps=4)
        return [(step, {k: v for k, v in row.items() if k.startswith("train")}) for step, row in logger.rows]

    assert logged(3) == logged(0)


def test_the_cause_reaches_every_logger():
    seen = {}
    module, watch = small(dropout=0.1), SymmetryTrace()

    class Remember(MemoryLogger):
        def log_hyperparams(self, params, *args, **kwargs):
            seen.update(dict(params))

    train(module, [watch], steps=4, logger=Remember())
    assert seen["symmetry/cause"] == str(watch.found)


def bytes_of(*roots):
    """Bytes of the distinct storages of the tensors in nested containers and objects of this project."""
    seen, storages = set(), {}
    left = list(roots)
    while left:
        each = left.pop()
        if isinstance(each, torch.Tensor):
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif id(each) not in seen and not isinstance(each, (nn.Module, Trainer, Callback, torch.optim.Optimizer)):
            seen.add(id(each))
            values = each.values() if isinstance(each, dict) else each if isinstance(each, (list, tuple)) else ()
            left += [*values, *(vars(each).values() if type(each).__module__.startswith("symbreak.") else ())]
    return sum(storages.values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_watching_keeps_at_most_one_copy_of_parameters_optimiser_state_and_the_steps_batches(accumulate):
    kept = []

    class Measure(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            state = [dict(pl_module.state_dict()), [dict(each) for each in trainer.optimizers[0].state.values()]]
            held = bytes_of(vars(watch), list(pl_module.parameters())) - bytes_of(list(pl_module.parameters()))
            kept.append((held, bytes_of(state) + accumulate * bytes_of(batch)))

    watch = SymmetryTrace()
    train(small(), [watch, Measure()], 3, accumulate_grad_batches=accumulate)
    generators = 3 * 5056  # the states of three random generators
    assert watch.found is None
    assert all(0 < held <= allowed + generators for held, allowed in kept), kept
    held, allowed = kept[-1]
    assert held > 0.9 * allowed  # the copy is there, so its bytes were counted


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="replays=-1, traced_steps=0 and follow=0 must be 0"):
        SymmetryTrace(replays=-1)


def test_a_finding_is_followed_to_the_layers_that_it_reaches_later():
    watch = SymmetryTrace(follow=3, stop=True)
    train(small(dropout=0.1), [watch], steps=9, loader=images())
    found = watch.found
    assert found is not None
    steps = [step for step, _ in watch.traces if step > found.step]
    assert 1 <= len(steps) <= 3
    spread = {change.weight for step, trace in watch.traces if step > found.step for change in trace.changes}
    assert "blocks.1.shortcut.weight" in spread - set(found.weights)


def test_the_first_steps_can_be_traced_whether_or_not_weights_change():
    watch, _ = fit(small(), steps=3)
    every = SymmetryTrace(traced_steps=3)
    train(small(), [Determinism("strict"), every], steps=4)
    assert [step for step, _ in every.traces] == [1, 2, 3]
    assert len(watch.traces) < 3
    assert every.found is None


def test_training_can_stop_at_the_first_finding():
    watch = SymmetryTrace(stop=True)
    trainer, _ = train(small(dropout=0.1), [watch], steps=8, loader=images())
    assert watch.found is not None
    assert trainer.global_step == watch.found.step
