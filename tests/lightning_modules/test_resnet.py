from typing import Any

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn

from symbreak.lightning_modules import ResNet, initialize
from symbreak.lightning_modules.resnet import ResidualBlock


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_torchvision_with_a_stem_for_small_images(depth, parameters):
    network: Any = ResNet(depth, init="default")
    assert sum(p.numel() for p in network.parameters()) == parameters
    original = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    assert set(network.network.state_dict()) == set(original.state_dict())
    assert network.network.conv1.weight.shape == (64, 3, 3, 3)
    shapes: list[torch.Size] = []
    network.network.layer1.register_forward_hook(lambda layer, args, output: shapes.append(output.shape))
    with torch.no_grad():
        assert network.eval()(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert shapes[0][2:] == (8, 8)


def test_cifar_architecture():
    network: Any = ResNet(14, "cifar", width=4, norm="scalar", in_channels=1)
    shapes = [
        (block.conv1.in_channels, block.conv1.out_channels, block.conv1.stride[0]) for block in network.network.blocks
    ]
    assert shapes == [(4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1)]
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in network.modules())
    linear = sum(isinstance(layer, nn.Linear) for layer in network.modules())
    assert convolutions + linear == 14 + 2  # the shortcuts that change the width do not count
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_scalar_block_is_fixups_formula():
    block: Any = ResidualBlock(4, 6, 2, "scalar", nn.Identity).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    conv = nn.functional.conv2d
    h = torch.relu(conv(x + block.bias1.bias, block.conv1.weight, stride=2, padding=1) + block.norm1.bias)
    scale, bias = block.norm2[0].scale, block.norm2[1].bias
    branch = scale * conv(h + block.bias2.bias, block.conv2.weight, padding=1) + bias
    torch.testing.assert_close(block(x), torch.relu(conv(x, block.shortcut.weight, stride=2) + branch))


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_blocks_start_as_their_shortcut(norm):
    network: Any = ResNet(14, "cifar", width=4, norm=norm, init="hadamard").eval()
    x = torch.rand(2, 4, 8, 8)
    assert network.network.blocks[0](x).equal(x)
    assert network.network.blocks[1](x).equal(x)


def test_checkpointing_changes_no_bit():
    plain = ResNet(20, "cifar", 4, 1, norm="scalar", width=2, init="hadamard", noise_scale=0.1)
    saving = ResNet(20, "cifar", 4, 1, norm="scalar", width=2, init="hadamard", checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    batch = torch.randn(4, 1, 8, 8), torch.arange(4)
    for network in (plain, saving):
        network.training_step(batch).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.equal(other.grad)


def test_checkpointing_keeps_fewer_activations():
    def saved(checkpointing):
        network = ResNet(38, "cifar", 4, 1, norm="scalar", width=2, checkpointing=checkpointing)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            network.training_step((torch.randn(4, 1, 8, 8), torch.arange(4)))
        return sum(sizes)

    assert saved(True) < 0.5 * saved(False)


def test_depth_500_without_normalisation_learns():
    """Zeros from ones on real digits; below ln 2 only by telling them apart, for there are as many of each."""
    digits: Any = load_digits(n_class=2)
    images = torch.from_numpy(digits.images[:32]).float().div(16).sub(0.3).div(0.37).unsqueeze(1)
    targets = torch.from_numpy(digits.target[:32])
    assert targets.sum() == 16
    network = ResNet(500, "cifar", 2, 1, norm="scalar", width=2, init="hadamard")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(4):
        loss = network.training_step((images, targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]


def test_he_explodes_where_zero_keeps_the_signal():
    """Without normalisation each He block adds to the mean square, a ZerO block leaves it as it is."""
    images = torch.rand(4, 3, 8, 8)

    def growth(scheme):
        network: Any = ResNet(62, "cifar", norm="scalar", width=4, init="default")
        initialize(network, scheme)
        squares: list[float] = []
        for block in network.network.blocks[:10]:
            block.register_forward_hook(lambda layer, args, output: squares.append(output.square().mean().item()))
        with torch.no_grad():
            network(images)
        return squares[-1] / squares[0]

    assert growth("zero") == 1
    assert growth("he") > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, "depth=20: ResNet of family 'torchvision' has depth 18, 34 or 50"),
        ({"depth": 18, "family": "cifar"}, r"family 'cifar' has depth 6n \+ 2 with n >= 1 \(8, 14, 20, 26"),
        ({"family": "imagenet"}, "expected one of 'torchvision', 'cifar'"),
        ({"norm": "scalar"}, "norm='scalar': ResNet of family 'torchvision' has no such option"),
        ({"width": 8}, "width: ResNet of family 'torchvision' has no such option"),
        ({"dropout": 0.1}, "dropout: ResNet of family 'torchvision' has no such option"),
        ({"checkpointing": True}, "checkpointing: ResNet of family 'torchvision' has no such option"),
        ({"depth": 8, "family": "cifar", "checkpointing": True}, "use norm='scalar'"),
        ({"depth": 8, "family": "cifar", "norm": "group"}, "expected one of 'batch', 'scalar'"),
        ({"depth": 8, "family": "cifar", "init": "ones"}, "init='ones': expected one of"),
        ({"depth": 8, "family": "cifar", "width": 0}, "width=0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
