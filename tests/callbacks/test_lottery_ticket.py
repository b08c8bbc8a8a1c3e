import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from symbreak.callbacks import CloneSeparation, LotteryTicket, SymmetryTrace
from symbreak.lightning_modules import ConstNet, LeakyNet, ResNet


class Rounds(Callback):
    """Notes weights and masks as each epoch begins and just before it ends."""

    def __init__(self):
        self.starts: list[dict[str, torch.Tensor]] = []
        self.ends: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.starts.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_train_epoch_end(self, trainer, pl_module):
        self.ends.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def train(
    network: LightningModule, ticket: LotteryTicket, epochs: int, tmp_path, logger: Any = False, others=()
) -> Rounds:
    images = torch.randn(32, 1, 8, 8)
    loader = DataLoader(TensorDataset(images, torch.arange(32) % 4), batch_size=16)
    rounds = Rounds()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": logger}
    arguments = {"accelerator": "cpu", "max_epochs": epochs, "enable_checkpointing": False, **quiet}
    trainer = Trainer(callbacks=[rounds, ticket, *others], default_root_dir=tmp_path, **arguments)
    trainer.fit(network, loader)
    return rounds


NETWORKS = {
    "zero": lambda: ConstNet(7, 1, 4, 1),
    "he": lambda: ConstNet(7, 1, 4, 1, init="he"),
    "scalar": lambda: ConstNet(7, 1, 4, 1, init="he", norm="scalar"),
    "leaky": lambda: LeakyNet(7, 1, 4, 1, init="1kkk"),
    "zer_o": lambda: ResNet(8, "cifar", 4, 1, init="hadamard", width=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_round_rewinds_to_the_initial_values(name, tmp_path):
    network = NETWORKS[name]()
    initial = {key: value.detach().clone() for key, value in network.named_parameters()}
    ticket = LotteryTicket(amount=0.5, every_n_epochs=2, rounds=2)
    rounds = train(network, ticket, 6, tmp_path)
    for epoch in (2, 4):
        start = rounds.starts[epoch]
        for key, value in initial.items():
            rewound = start[f"{key}_orig"] if f"{key}_orig" in start else start[key]
            assert rewound.equal(value), (epoch, key)
    masks = [key for key in rounds.starts[4] if key.endswith("_mask")]
    pruned = {key for key, value in initial.items() if value.ndim > 1}
    assert {key.removesuffix("_mask") for key in masks} == pruned
    total = sum(initial[key].numel() for key in pruned)
    for epoch, share in ((2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25)):
        assert sum(rounds.starts[epoch][key].sum().item() for key in masks) == pytest.approx(share * total, abs=1)
    assert ticket.kept() == 1.0  # the pruning is permanent by now, without masks
    for key in pruned:
        assert not network.state_dict()[key][rounds.starts[5][f"{key}_mask"] == 0].any()
    changed = [key for key in initial if not network.state_dict()[key].equal(initial[key])]
    assert changed


def test_magnitude_keeps_the_largest_weights_and_random_does_not(tmp_path):
    for mask in ("magnitude", "random"):
        rounds = train(ConstNet(7, 1, 4, 1, init="he"), LotteryTicket(0.3, 1, 1, mask), 2, tmp_path)
        end, start = rounds.ends[0], rounds.starts[1]
        names = [key.removesuffix("_mask") for key in start if key.endswith("_mask")]
        kept = torch.cat([end[name][start[f"{name}_mask"] == 1].abs() for name in names])
        removed = torch.cat([end[name][start[f"{name}_mask"] == 0].abs() for name in names])
        assert (removed.max() <= kept.min()).item() == (mask == "magnitude")
        assert len(removed) / (len(kept) + len(removed)) == pytest.approx(0.3, abs=0.01)


def test_without_rewinding_the_trained_weights_stay(tmp_path):
    rounds = train(ConstNet(7, 1, 4, 1, init="he"), LotteryTicket(0.3, 1, 1, rewind=False), 2, tmp_path)
    assert rounds.starts[1]["stem.weight_orig"].equal(rounds.ends[0]["stem.weight"])


def test_copies_are_measured_on_through_a_round_whose_mask_makes_them_differ(tmp_path):
    separation, trace = CloneSeparation(every_n_steps=1), SymmetryTrace()
    train(ConstNet(7, 1, 4, 1), LotteryTicket(0.5, 1, 1), 2, tmp_path, others=[separation, trace])
    assert min(separation.separation.values()) == 2


def test_kept_is_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    train(ConstNet(7, 1, 4, 1), LotteryTicket(0.5, 1, 2), 3, tmp_path, logger)
    rows = [
        row
        for row in csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines())
        if row["lottery/kept"]
    ]
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert [float(row["lottery/kept"]) for row in rows] == pytest.approx([0.5, 0.25], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": 0.0}, "amount=0.0: expected more than 0"),
        ({"amount": 1.0}, "amount=1.0: expected more than 0 and less than 1"),
        ({"rounds": 0}, "rounds=0: expected at least 1"),
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"mask": "largest"}, "mask='largest': expected one of 'magnitude', 'random'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LotteryTicket(**arguments)


@pytest.mark.parametrize("interrupted", [1, 3])
def test_masks_and_initial_values_survive_a_resume(interrupted, tmp_path):
    """Interrupted before the first round, and between the first and the second."""

    def fit(epochs, ckpt_path=None):
        torch.manual_seed(len(str(ckpt_path)))  # a resumed process starts from other values
        network, ticket = ConstNet(7, 1, 4, 1, init="he"), LotteryTicket(amount=0.5, every_n_epochs=2, rounds=2)
        images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        loader = DataLoader(TensorDataset(images, torch.arange(32) % 4), batch_size=16)
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        keep = ModelCheckpoint(tmp_path / str(epochs), every_n_epochs=1, save_last=True)
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[ticket, keep], **quiet)
        trainer.fit(network, loader, ckpt_path=ckpt_path)
        return network.state_dict()

    whole = fit(5)
    fit(interrupted)
    resumed = fit(5, tmp_path / str(interrupted) / "last.ckpt")
    assert any((value == 0).double().mean() > 0.5 for key, value in resumed.items() if key.endswith("weight"))
    different = [key for key in whole if not torch.equal(whole[key], resumed[key])]
    assert different == []
