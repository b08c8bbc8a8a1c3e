from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from tests.callbacks.training import Wrapped, train
from torch import nn

from symbreak.callbacks import Acceleration, SymmetryBreaking


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.traced = []

    def forward(self, x):
        self.traced.append(torch.compiler.is_compiling())
        return torch.relu(self.conv(x))


def network():
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(3), Block(8))
    return nn.Sequential(blocks, nn.Flatten(), nn.Linear(512, 10))


def first_block(module) -> Any:
    return module.network[0][0]


@pytest.fixture
def compiled(monkeypatch):
    """torch.compile without code generation, and the functions it compiled."""
    functions, real = [], torch.compile

    def eager(function, **options):
        functions.append(function)
        return real(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", eager)
    return functions


def fit(*callbacks, steps=4):
    module = Wrapped(network())
    _, logger = train(module, list(callbacks), steps=steps)
    return module, logger


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_off_changes_nothing():
    assert same(fit(Acceleration())[0], fit()[0])


def test_blocks_are_compiled_while_training_and_hooks_see_their_outputs(compiled):
    accelerated, logger = fit(Acceleration(compile=True), SymmetryBreaking(every_n_steps=1))
    plain, expected = fit(SymmetryBreaking(every_n_steps=1))
    assert len(compiled) == 2
    assert any(first_block(accelerated).traced)
    assert "forward" not in vars(first_block(accelerated))
    assert same(accelerated, plain)
    assert logger.keys("symmetry") == expected.keys("symmetry")
    key = "symmetry/feature_asymmetry/network.0.1"
    assert logger.series(key) == expected.series(key)
    assert len(logger.series(key)) == 4


def test_compiled_code_is_taken_off_after_an_exception(compiled):
    class Failing(Wrapped):
        def training_step(self, batch, batch_idx):
            raise ArithmeticError

    module = Failing(network())
    with pytest.raises(ArithmeticError):
        train(module, [Acceleration(compile=True)])
    assert compiled
    assert "forward" not in vars(first_block(module))


def test_channels_last_reaches_the_feature_maps():
    class Watched(Wrapped):
        def training_step(self, batch, batch_idx):
            features = self.network[0](batch[0])
            assert features.is_contiguous(memory_format=torch.channels_last)
            assert not features.is_contiguous()
            return super().training_step(batch, batch_idx)

    module = Watched(network())
    train(module, [Acceleration(channels_last=True)])
    plain = fit()[0]
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_all_options_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    train(Wrapped(network()), [Acceleration(channels_last=True)], steps=1, logger=logger, precision="bf16-mixed")
    logged = {key: value for key, value in logger.experiment.hparams.items() if key.startswith("acceleration/")}
    assert logged == {
        "acceleration/compile": False,
        "acceleration/channels_last": True,
        "acceleration/precision": "bf16-mixed",
        "acceleration/fused": [None],
        "acceleration/foreach": [None],
    }
