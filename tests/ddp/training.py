"""What the ranks of the distributed tests do; each function runs in every rank."""

import os

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from tests.callbacks.training import MemoryLogger
from torch.utils.data import DataLoader, TensorDataset

from symbreak.callbacks import (
    Determinism,
    FeatureDiversity,
    OrderedDDPStrategy,
    RoundingNoise,
    Snapshots,
    SymmetryBreaking,
)
from symbreak.callbacks.functional import distinct_rows
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import MLP, ConstNet, ImportedNetwork, LeakyNet, ResNet
from symbreak.sweeps.run.command import main

GLOBAL_BATCH = 120


def be_a_rank():
    """Tell Lightning which rank this process is, so that it starts no others."""
    rank, world_size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": world_size}
    rank_zero_only.rank = dist.get_rank()


def fit(module: LightningModule, callbacks=(), steps=4, ordered=False, test=False, strategy=None):
    """Train on digits over all ranks; return the trainer and what this rank's logger received."""
    be_a_rank()
    logger, world_size = MemoryLogger(), dist.get_world_size()
    kind = OrderedDDPStrategy if ordered else DDPStrategy
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=world_size,
        strategy=strategy or kind(process_group_backend="gloo"),
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DigitsDataModule(batch_size=GLOBAL_BATCH // world_size, seed=0)
    trainer.fit(module, datamodule=data)
    if test:
        trainer.test(module, datamodule=data, verbose=False)
    return trainer, logger


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def zero_const_net():
    """Distinct filters of each hidden layer after four strict steps, and the weights, by reduction."""
    found = {}
    for ordered in (False, True):
        module = ConstNet(depth=10, widen_factor=1, in_channels=1)
        fit(module, [Determinism("strict")], ordered=ordered)
        filters = {name: int(distinct_rows(p)) for name, p in module.named_parameters() if p.ndim == 4}
        found["ordered" if ordered else "default"] = filters, weights(module)
    return found


def logged():
    """What a network without batch statistics logs, trained on the same global batches at any world size."""
    seed_everything(1, verbose=False)
    module = ConstNet(depth=7, widen_factor=1, in_channels=1, norm="scalar", noise_scale=0.5)
    monitors = [FeatureDiversity(every_n_steps=1), SymmetryBreaking(every_n_steps=1)]
    trainer, logger = fit(module, [Determinism("strict"), *monitors], test=True)
    return logger.rows, {key: float(value) for key, value in trainer.callback_metrics.items()}


NETWORKS = {
    "ConstNet": lambda: ConstNet(depth=7, widen_factor=1, in_channels=1, dropout=0.1),
    "LeakyNet": lambda: LeakyNet(depth=7, widen_factor=1, in_channels=1, init="h_h_h_h"),
    "ResNet": lambda: ResNet(depth=8, family="cifar", in_channels=1),
    "MLP": lambda: MLP(width=16, in_channels=1, image_size=8),
    "ImportedNetwork": lambda: ImportedNetwork("torchvision.models.shufflenet_v2_x0_5", in_channels=1),
}


def every_network():
    """The weights that each network ends with under every callback, and how often each key was logged at a step."""
    found = {}
    for name, make in NETWORKS.items():
        seed_everything(2, verbose=False)
        module = make()
        _, logger = fit(module, [Determinism("strict"), RoundingNoise(1), FeatureDiversity(1), SymmetryBreaking(1)], 2)
        found[name] = weights(module), [(step, key) for step, row in logger.rows for key in row]
    return found


def logits_of_a_test(folder, dealt):
    """Save the test logits of a network, of digits or of a `DataLoader` over its test set."""
    be_a_rank()
    torch.manual_seed(0)
    module = MLP(depth=2, width=4, in_channels=1, init="he")
    data = DigitsDataModule(batch_size=32)
    loader = DataLoader(TensorDataset(*digits_test_set()), batch_size=32) if dealt else None
    trainer = Trainer(
        accelerator="cpu",
        devices=dist.get_world_size(),
        strategy=DDPStrategy(process_group_backend="gloo"),
        callbacks=[Snapshots(dirpath=folder)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.test(module, loader, datamodule=None if dealt else data, verbose=False)


def digits_test_set():
    """Return the images and labels of the test set, in order."""
    data = DigitsDataModule(batch_size=32)
    data.setup("test")
    return tuple(map(torch.cat, zip(*data.test_dataloader(), strict=True)))


def command_line(arguments):
    """Run ``symbreak fit``."""
    be_a_rank()
    main(["fit", *arguments])
