import pytest
import torch
import torchvision
from torch import nn

from symbreak.lightning_modules import ConstNet, LeakyNet, ResNet
from symbreak.lightning_modules.residual import find_structure


class Gated(nn.Module):
    """A branch whose output is multiplied by squeeze-and-excitation, a per-channel scale and dropped paths."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.squeeze = nn.Conv2d(4, 4, 1)
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        h = self.b(torch.relu(self.a(x)))
        h = torch.sigmoid(self.squeeze(h.mean((2, 3), keepdim=True))) * h
        return h * self.gamma + x


class ByValue(nn.Module):
    """A forward that torch.fx cannot follow, around a block that it can."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Gated(), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.block(x)
        return self.head(x if x.sum() > 0 else -x).mean((2, 3))


class Sum(nn.Module):
    """Two equal paths, an added parameter and an added constant: none is a residual branch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.position = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.a(x + self.position) + self.b(x) + 1


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_const_net(norm):
    structure = find_structure(ConstNet(7, 2, norm=norm))
    assert [branch.layers for branch in structure.branches] == [(f"blocks.{i}.conv",) for i in range(3)]
    gates = [f"blocks.{i}.affine.1.scale" if norm == "scalar" else None for i in range(3)]
    assert [branch.gate for branch in structure.branches] == gates
    assert structure.head == "head"


@pytest.mark.parametrize(("depth", "blocks", "convolutions"), [(18, 8, 2), (34, 16, 2), (50, 16, 3)])
def test_torchvision_resnet(depth, blocks, convolutions):
    network = getattr(torchvision.models, f"resnet{depth}")()
    structure = find_structure(network)
    assert len(structure.branches) == blocks
    for branch in structure.branches:
        prefix = branch.last.rpartition(".")[0]
        assert branch.layers == tuple(f"{prefix}.conv{i + 1}" for i in range(convolutions))
        assert branch.last == branch.layers[-1]
        assert branch.gate == f"{prefix}.bn{convolutions}.weight"
    assert structure.head == "fc"


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_cifar_resnet(norm):
    structure = find_structure(ResNet(8, "cifar", norm=norm, width=2))
    gate = "norm2.weight" if norm == "batch" else "norm2.0.scale"
    for i, branch in enumerate(structure.branches):
        prefix = f"network.blocks.{i}"
        assert branch.layers == (f"{prefix}.conv1", f"{prefix}.conv2")
        assert (branch.last, branch.gate) == (f"{prefix}.conv2", f"{prefix}.{gate}")
    assert len(structure.branches) == 3
    assert structure.head == "network.head"


def test_transformers():
    vit = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    structure = find_structure(vit)
    assert [branch.last.split(".", 3)[-1] for branch in structure.branches] == ["self_attention.out_proj", "mlp.3"] * 2
    assert structure.head == "heads.head"
    swin = torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [2, 2], num_classes=3)
    lasts = [branch.last for branch in find_structure(swin).branches]
    assert lasts == [f"features.1.{i}.{last}" for i in range(2) for last in ("attn.proj", "mlp.3")]


def test_gates_and_side_paths():
    (branch,) = find_structure(Gated()).branches
    assert (branch.last, branch.gate) == ("b", "gamma")
    assert set(branch.layers) == {"a", "b", "squeeze"}


def test_untraceable_networks_are_searched_by_child():
    network = ByValue()
    structure = find_structure(network)
    assert [(branch.last, branch.gate) for branch in structure.branches] == [("block.b", "block.gamma")]
    assert structure.head == "head"
    assert network.training
    assert network.block.training


def test_networks_without_residual_branches():
    assert find_structure(Sum()).branches == ()
    assert find_structure(LeakyNet(7, 1, init="1111")).branches == ()
    assert find_structure(torchvision.models.DenseNet(4, (1, 1, 1, 1), 4, num_classes=3)).branches == ()


def test_modes_survive_tracing():
    network = ConstNet(7, 1)
    network.blocks.eval()
    find_structure(network)
    assert network.training
    assert not any(module.training for module in network.blocks.modules())
