import pytest
import torch
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.lightning_modules import SGD_DEFAULTS, ConstNet, ImageClassifier
from symbreak.lightning_modules.supervised import LossAndAccuracy


class Linear(ImageClassifier):
    def __init__(self):
        super().__init__(num_classes=4, in_channels=1)
        self.head = nn.Linear(64, 4)

    def forward(self, images):
        return self.head(images.flatten(1))


def expected(network, loader):
    """Loss and accuracy over a whole loader, in one batch."""
    images, targets = loader.dataset.tensors
    with torch.no_grad():
        logits = network(images)
    return functional.cross_entropy(logits, targets).item(), (logits.argmax(1) == targets).float().mean().item()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_train_values_are_means_over_the_interval(loader, make_trainer, memory_logger, accumulate):
    network, seen = Linear(), []
    network.loss.register_forward_hook(lambda _, args, loss: seen.append((loss.item(), args[0].argmax(1), args[1])))
    trainer = make_trainer(
        logger=memory_logger, max_steps=8, log_every_n_steps=2, accumulate_grad_batches=accumulate, max_epochs=-1
    )
    trainer.fit(network, loader)
    rows = [(step, row) for step, row in memory_logger.rows if "train/loss" in row]
    assert [step for step, _ in rows] == [1, 3, 5, 7]
    assert set(rows[0][1]) == {"train/loss", "train/accuracy", "epoch"}
    # An epoch has 3 batches: with accumulate=2 its updates take 2 batches and 1.
    updates = (
        [[batch] for batch in range(8)] if accumulate == 1 else [[0, 1], [2], [3, 4], [5], [6, 7], [8], [9, 10], [11]]
    )
    for index, (_, row) in enumerate(rows):
        batches = [seen[batch] for update in updates[2 * index : 2 * index + 2] for batch in update]
        count = sum(len(targets) for _, _, targets in batches)
        assert row["train/loss"] == pytest.approx(sum(loss * len(targets) for loss, _, targets in batches) / count)
        correct = sum((guess == targets).sum().item() for _, guess, targets in batches)
        assert row["train/accuracy"] == pytest.approx(correct / count)


def test_evaluation_counts_samples_not_batches(loader, make_trainer, memory_logger):
    network = Linear()
    trainer = make_trainer(logger=memory_logger)
    loss, accuracy = expected(network, loader)
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        run(network, loader, verbose=False)
        assert trainer.callback_metrics[f"{stage}/loss"].item() == pytest.approx(loss)
        assert trainer.callback_metrics[f"{stage}/accuracy"].item() == pytest.approx(accuracy)
    assert {key for _, row in memory_logger.rows for key in row} >= {
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
    }


def test_validation_while_fitting_starts_afresh_each_time(loader, make_trainer):
    network = Linear()
    trainer = make_trainer(max_epochs=2, log_every_n_steps=1)
    trainer.fit(network, loader, loader)
    loss, accuracy = expected(network, loader)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss)
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(accuracy)
    assert "train/loss" in trainer.callback_metrics


class Synchronisations(TorchDispatchMode):
    """Counts reads of a tensor's value by the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Watched(ConstNet):
    """Counts the synchronisations of its own hooks."""

    def __init__(self):
        super().__init__(7, 1, num_classes=4, in_channels=1)
        self.counts: list[int] = []

    def training_step(self, batch):
        with Synchronisations() as self.mode:
            return super().training_step(batch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with self.mode:
            super().on_train_batch_end(outputs, batch, batch_idx)
            self.counts.append(self.mode.count)
            assert self.train_metrics.count.item() >= 0
        assert self.mode.count == self.counts[-1] + 1  # the counter works


def test_no_step_waits_for_the_device(loader, make_trainer, memory_logger):
    network = Watched()
    make_trainer(logger=memory_logger, max_steps=6, max_epochs=-1, log_every_n_steps=2).fit(network, loader)
    assert network.counts == [0] * 6  # Lightning reads what it writes, after these hooks
    assert sum("train/loss" in row for _, row in memory_logger.rows) == 3


def test_soft_targets_count_by_their_largest_class():
    metric = LossAndAccuracy()
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    metric.update(torch.tensor(3.0), logits, torch.tensor([[0.7, 0.3], [0.6, 0.4]]))
    metric.update(torch.tensor(0.0), logits[:1], torch.tensor([0]))
    values = metric.compute()
    assert values["loss"].item() == pytest.approx(2.0)
    assert values["accuracy"].item() == pytest.approx(2 / 3)


def test_optimiser_defaults():
    optimiser = Linear().configure_optimizers()
    assert isinstance(optimiser, torch.optim.SGD)
    assert (
        {key: optimiser.defaults[key] for key in SGD_DEFAULTS}
        == SGD_DEFAULTS
        == {
            "lr": 0.03,
            "momentum": 0.9,
            "weight_decay": 5e-4,
        }
    )


def test_frozen_layers_stay_as_they_are(loader, make_trainer):
    network = ConstNet(
        7, 1, num_classes=4, in_channels=1, noise_scale=0.1, frozen_layers=["stem", "blocks.1", "*.norm.*"]
    )
    before = {name: value.clone() for name, value in network.named_parameters()}
    make_trainer(max_steps=3, max_epochs=-1).fit(network, loader)
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("stem", "blocks.1.")) or ".norm." in name}
    assert frozen == {name for name, value in network.named_parameters() if not value.requires_grad}
    assert changed == set(before) - frozen


def test_frozen_layers_that_are_not_there():
    with pytest.raises(ValueError, match=r"'blocks\.9' matches no parameter; there are stem, .*blocks\.2\.conv.*head"):
        ConstNet(7, 1, frozen_layers=["blocks.9"])


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_channels": 0}])
def test_sizes_below_one(arguments):
    with pytest.raises(ValueError, match="expected at least 1"):
        ImageClassifier(**arguments)


def test_checkpoint_loads_without_unpickling_code(loader, make_trainer, tmp_path):
    network = ConstNet(7, 1, num_classes=4, in_channels=1, noise_scale=0.1, frozen_layers=["stem"])
    trainer = make_trainer(max_steps=1)
    trainer.fit(network, loader)
    trainer.save_checkpoint(tmp_path / "network.ckpt")
    checkpoint = torch.load(tmp_path / "network.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["noise_scale"] == 0.1
    loaded = ConstNet.load_from_checkpoint(tmp_path / "network.ckpt", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch):
    monkeypatch.setattr("sys.argv", ["symbreak"])


def command_line(*arguments):
    return LightningCLI(
        ImageClassifier,
        subclass_mode_model=True,
        run=False,
        save_config_callback=None,
        trainer_defaults={"logger": False, "accelerator": "cpu"},
        args=list(arguments),
    )


def test_command_line_builds_subclasses():
    network = command_line(
        "--model=symbreak.lightning_modules.ConstNet", "--model.depth=7", "--model.widen_factor=1"
    ).model
    assert isinstance(network, ConstNet)
    assert len(network.blocks) == 3


@pytest.mark.parametrize(
    ("argument", "allowed"),
    [("init=ones", "zero"), ("norm=group", "batch"), ("noise_mode=mixed", "additive"), ("depth=8", "7, 10, 13")],
)
def test_command_line_names_what_is_allowed(argument, allowed, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        command_line("--model=symbreak.lightning_modules.ConstNet", f"--model.{argument}")
    assert allowed in capsys.readouterr().err + str(error.value)
