import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.lightning_modules import ImportedNetwork
from symbreak.lightning_modules import initialization as init

RESNET = "torchvision.models.resnet18"


class Small(nn.Module):
    """A user's own network."""

    def __init__(self, in_channels, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))


@pytest.fixture
def _own_module(monkeypatch):
    """Makes `Small` importable as own_networks.Small."""
    module = ModuleType("own_networks")
    module.__dict__.update(Small=Small, number=3, no_network=lambda: {})
    monkeypatch.setitem(sys.modules, "own_networks", module)


def test_torchvision_by_import_path():
    network: Any = ImportedNetwork(RESNET, 7, 3, init="hadamard", noise_scale=0.01)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    conv = network.network.get_submodule("layer2.0.conv2").weight
    assert conv.std().item() == pytest.approx(0.01 * (2 / (128 * 9)) ** 0.5, rel=0.05)


def test_grey_images_are_repeated():
    network: Any = ImportedNetwork(RESNET, 7, 1).eval()
    images = torch.randn(2, 1, 32, 32)
    assert network(images).equal(network.network(images.repeat(1, 3, 1, 1)))


@pytest.mark.usefixtures("_own_module")
def test_own_network_trains_and_reloads(loader, make_trainer, tmp_path):
    network: Any = ImportedNetwork(
        "own_networks.Small", 4, 1, {"width": 6}, init="averaging", frozen_layers=["network.conv"]
    )
    assert network.network.get_parameter("conv.weight").equal(init.averaging_(torch.empty(6, 1, 3, 3)))
    trainer = make_trainer(max_steps=2, max_epochs=-1)
    trainer.fit(network, loader)
    assert network.network.get_parameter("conv.weight").equal(init.averaging_(torch.empty(6, 1, 3, 3)))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = ImportedNetwork.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert all(p.equal(q) for p, q in zip(loaded.parameters(), network.parameters(), strict=True))


@pytest.mark.usefixtures("_own_module")
@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("no.such.thing", {}, "'no.such.thing' cannot be imported .*: expected a path like 'torchvision"),
        ("torchvision.models.resnet19", {}, "'torchvision.models.resnet19' cannot be imported"),
        ("own_networks.number", {}, "cannot be imported"),
        ("own_networks.Small", {"height": 3}, r"does not take network_args=\{'height': 3\}"),
        ("own_networks.no_network", {}, "makes a dict, expected a torch.nn.Module"),
        ("builtins", {}, "cannot be imported"),
    ],
)
def test_what_cannot_be_made_is_named(path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImportedNetwork(path, 4, 1, arguments)


def test_channels_that_do_not_fit():
    with pytest.raises(ValueError, match="takes 3 channels, the images have 2"):
        ImportedNetwork(RESNET, 4, 2)
