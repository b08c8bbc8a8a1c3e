import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.lightning_modules import ConstNet
from symbreak.lightning_modules.const_net import ConstBlock

GOLDEN = Path(__file__).parent / "golden" / "const_net.json"


def convolutions(network) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def blocks(network) -> list[Any]:
    return list(network.blocks)


def test_parameter_count():
    assert sum(p.numel() for p in ConstNet(16, 10).parameters()) == 17_115_354


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_architecture(norm):
    network = ConstNet(depth=10, widen_factor=2, norm=norm, in_channels=3)
    shapes = [(block.conv.in_channels, block.conv.out_channels, block.conv.stride[0]) for block in blocks(network)]
    assert shapes == [(16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    assert [block.shortcut is not None for block in blocks(network)] == [True, False] * 3
    for block in blocks(network):
        assert block.conv.kernel_size == (3, 3)
        assert block.conv.bias is None
        if block.shortcut is not None:
            assert (block.shortcut.kernel_size, block.shortcut.stride) == ((1, 1), block.conv.stride)
            assert block.shortcut.bias is None
        scalars = sorted(p.item() for name, p in block.named_parameters() if "conv" not in name and p.ndim == 0)
        assert scalars == ([] if norm == "batch" else [0.0, 0.0, 1.0])
        assert isinstance(block.norm, nn.BatchNorm2d) == (norm == "batch")
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_no_shortcut_convolution_where_the_width_stays():
    network = ConstNet(depth=7, widen_factor=1)
    assert [block.shortcut is not None for block in blocks(network)] == [False, True, True]


@pytest.mark.parametrize("in_channels", [1, 3])
def test_zero_init_entry_by_entry(in_channels):
    network = ConstNet(depth=10, widen_factor=2, in_channels=in_channels)
    for name, conv in convolutions(network).items():
        expected = torch.zeros(conv.weight.shape)
        if not name.endswith("conv"):
            expected[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1 / conv.in_channels
        assert conv.weight.equal(expected), name
    assert not network.head.weight.any()
    assert not network.head.bias.any()


def test_he_init_spreads():
    network = ConstNet(depth=7, widen_factor=4, init="he")
    for name, conv in convolutions(network).items():
        gain = 2 if name.endswith("conv") else 1
        variance = gain / (conv.kernel_size[0] ** 2 * conv.out_channels)
        assert conv.weight.var().item() == pytest.approx(variance, rel=6 * (2 / conv.weight.numel()) ** 0.5), name
    assert not network.head.weight.any()


def test_noise_touches_every_convolution_and_nothing_else():
    plain, noisy = ConstNet(7, 4), ConstNet(7, 4, noise_scale=1e-3)
    for (name, before), (_, after) in zip(plain.named_parameters(), noisy.named_parameters(), strict=True):
        if name.removesuffix(".weight") in convolutions(plain):
            spread = 1e-3 * (2 / (before.shape[0] * before.shape[2] * before.shape[3])) ** 0.5
            assert (after - before).std().item() == pytest.approx(spread, rel=0.2), name
        else:
            assert after.equal(before), name


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_block_is_the_stated_formula(norm):
    block: Any = ConstBlock(4, 6, 2, norm, nn.Identity).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    if norm == "batch":
        h = torch.relu(torch.nn.functional.batch_norm(x, None, None, block.norm.weight, block.norm.bias, training=True))
        branch = conv(h, block.conv.weight, stride=2, padding=1)
    else:
        h = torch.relu(x + block.norm.bias)
        branch = block.affine[1].scale * (conv(h, block.conv.weight, stride=2, padding=1) + block.affine[0].bias)
    torch.testing.assert_close(block(x), branch + conv(h, block.shortcut.weight, stride=2))


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_signals_pass_each_group_unchanged(norm):
    """At init="zero" features, and gradients under a random head, are the same bits at every block of a group."""
    network = ConstNet(depth=13, widen_factor=2, norm=norm)
    nn.init.normal_(network.head.weight)
    features: list[torch.Tensor] = []

    def keep(block, args, output):
        output.retain_grad()
        features.append(output)

    for block in network.blocks:
        block.register_forward_hook(keep)
    network.loss(network(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    for group in range(3):
        first, *others = features[3 * group : 3 * group + 3]
        assert first.grad is not None
        assert first.grad.any()
        for other in others:
            assert other.equal(first)
            assert other.grad is not None
            assert other.grad.equal(first.grad)
        assert all(channel.equal(first[:, 0]) for channel in first.unbind(1))


@pytest.mark.parametrize("final_relu", [True, False])
def test_without_the_final_relu_tiny_noise_stays_tiny(final_relu):
    """Where features are exactly 0 the ReLU lets noise of any size choose which channels get a gradient."""
    network = ConstNet(depth=10, widen_factor=1, in_channels=1, final_relu=final_relu, noise_scale=1e-7).double()
    optimiser, gradients = torch.optim.SGD(network.parameters(), lr=0.1), []

    def keep_gradient(block, args, output):
        output.register_hook(gradients.append)

    blocks(network)[-1].register_forward_hook(keep_gradient)
    images, labels = torch.randn(20, 1, 8, 8, dtype=torch.float64), torch.arange(20) % 10
    for _ in range(2):
        optimiser.zero_grad()
        network.loss(network(images), labels).backward()
        optimiser.step()
    spread = (gradients[1] - gradients[1].mean(1, keepdim=True)).norm() / gradients[1].norm()
    assert (spread > 0.1) == final_relu
    assert (spread < 1e-6) != final_relu


def test_dropout_is_on_branches_and_only_on_request_after_the_stem():
    network = ConstNet(7, 1, dropout=0.5)
    images = torch.rand(4, 3, 8, 8)
    assert network.blocks(network.stem(images)).equal(network.blocks(network.stem(images)))  # branches are 0
    stem = ConstNet(7, 1, dropout=0.5, stem_dropout=True)
    kept = stem.stem_dropout(stem.stem(images)) != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
    for block in blocks(network):
        nn.init.normal_(block.conv.weight)
    assert not network.blocks(network.stem(images)).equal(network.blocks(network.stem(images)))
    network.eval()
    assert network.blocks(network.stem(images)).equal(network.blocks(network.stem(images)))


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_stacked_replicas_agree_with_single_networks(norm):
    networks = [ConstNet(7, 1, norm=norm, noise_scale=0.5).double() for _ in range(3)]
    for network in networks:
        nn.init.normal_(network.head.weight)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    alone = torch.stack([network(images) for network in networks])
    fresh = [ConstNet(7, 1, norm=norm).double() for _ in networks]
    for copy, network in zip(fresh, networks, strict=True):
        copy.load_state_dict(dict(network.named_parameters()), strict=False)
    parameters, buffers = torch.func.stack_module_state([*fresh])
    stacked = torch.vmap(lambda p, b: torch.func.functional_call(fresh[0], (p, b), (images,)))(parameters, buffers)
    torch.testing.assert_close(stacked, alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 15}, r"depth=15: ConstNet has depth 3n \+ 4 with n >= 1 \(7, 10, 13, 16"),
        ({"depth": 4}, "depth=4"),
        ({"widen_factor": 0}, "widen_factor=0: expected at least 1"),
        ({"init": "ones"}, "init='ones': expected one of 'default', 'zero', 'he'"),
        ({"norm": "group"}, "norm='group': expected one of 'batch', 'scalar'"),
        ({"noise_scale": -1e-3}, "noise_scale=-0.001: expected between 0 and 1e\\+06"),
        ({"noise_scale": 2.0, "noise_mode": "interpolate"}, "noise_scale=2.0: expected between 0 and 1"),
        ({"noise_mode": "mixed"}, "noise_mode='mixed': expected one of 'additive', 'interpolate'"),
        ({"dropout": 1.5}, "dropout=1.5: expected between 0 and 1"),
        ({"dropout": -0.1}, "dropout=-0.1: expected between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConstNet(**arguments)


def golden_losses(norm):
    """20 steps of SGD in float64 on 32 fixed images, from a network whose features differ by noise of scale 0.1."""
    torch.manual_seed(0)
    network = ConstNet(10, 1, num_classes=4, in_channels=1, norm=norm, noise_scale=0.1).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 1, 8, 8, generator=generator, dtype=torch.float64)
    optimiser, losses = network.configure_optimizers(), []
    for _ in range(20):
        loss = network.training_step((images, torch.arange(32) % 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("norm", ["batch", "scalar"])
def test_golden_run(norm):
    recorded = json.loads(GOLDEN.read_text())[norm]
    assert golden_losses(norm) == pytest.approx(recorded, rel=1e-7)
    assert recorded[-1] < recorded[0]
