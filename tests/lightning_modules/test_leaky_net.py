import math
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.lightning_modules import PUBLISHED_INITS, LeakyNet
from symbreak.lightning_modules.leaky_net import NOISY_SHARE, letter_


def convolutions(network) -> list[nn.Conv2d]:
    return [network.stem, *(block.conv for block in network.blocks)]


@pytest.mark.parametrize("slope", [0.01, 0.3])
@pytest.mark.parametrize("init", PUBLISHED_INITS)
def test_published_inits_entry_by_entry(init, slope):
    network = LeakyNet(16, 1, init=init, negative_slope=slope)
    letters = init.replace("_", "")
    for i, (conv, letter) in enumerate(zip(convolutions(network), letters, strict=True)):
        scale = -1 / slope if i > 0 and i % 2 == 0 else 1.0  # blocks 1, 3, ... are layers 2, 4, ...
        expected = torch.zeros(conv.weight.shape)
        if letter == "1":
            expected[:, :, 1, 1] = scale / conv.in_channels
        elif letter == "i":
            for d in range(conv.out_channels):
                expected[d, d % conv.in_channels, 1, 1] = scale
        else:
            variance = math.sqrt(2) * (1 + slope) / (conv.in_channels * 9)
            assert conv.weight.var().item() == pytest.approx(variance, rel=8 * (2 / conv.weight.numel()) ** 0.5)
            continue
        torch.testing.assert_close(conv.weight.detach(), expected)
    assert not network.head.weight.any()
    assert not network.head.bias.any()


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("noisy", "plain"), [("k", "i"), ("n", "1")])
def test_noisy_letters(noisy, plain, odd):
    slope, shape = 0.2, (64, 32, 3, 3)
    structured = letter_(torch.empty(shape), plain, slope, odd)
    rest = letter_(torch.empty(shape), noisy, slope, odd) - (1 - NOISY_SHARE) * structured
    variance = math.sqrt(2) * 1.2 * NOISY_SHARE / (32 * 9)
    assert rest.var().item() == pytest.approx(variance, rel=0.05)
    assert rest.mean().item() == pytest.approx(0, abs=1e-3)
    assert NOISY_SHARE == 0.01


def test_architecture():
    network: Any = LeakyNet(10, 2, init="1_ii_ii_ii", dropout=0.1)
    shapes = [(block.conv.in_channels, block.conv.out_channels, block.conv.stride[0]) for block in network.blocks]
    assert shapes == [(16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    assert [isinstance(block.norm, nn.BatchNorm2d) for block in network.blocks] == [False, True] * 3
    assert [block.bias.bias.item() for block in network.blocks] == [0.0] * 6
    assert all(block.conv.bias is None for block in network.blocks)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("odd", [False, True])
def test_block_is_the_stated_formula(odd):
    network: Any = LeakyNet(7, 1, init="hhhh", negative_slope=0.1).double()
    block = network.blocks[int(odd)]
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, block.conv.in_channels, 6, 6, dtype=torch.float64)
    h = nn.functional.conv2d(x + block.bias.bias, block.conv.weight, stride=block.conv.stride, padding=1)
    h = torch.where(h > 0, h, 0.1 * h)
    if odd:
        h = nn.functional.batch_norm(h, None, None, block.norm.weight, block.norm.bias, training=True)
    torch.testing.assert_close(block(x), h)


@pytest.mark.parametrize("init", ["i_iiii_iiii_iiii", "1_iiii_iiii_iiii", "1_iiii_1111_iiii", "1_1111_1111_1111"])
def test_pairs_of_blocks_map_x_to_minus_x(init):
    """In evaluation mode, up to BatchNorm's eps, where the width and the resolution stay."""
    network: Any = LeakyNet(16, 1, init=init).double().eval()
    x = network.stem(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    letters = init.replace("_", "")[1:]
    if letters[0] == "1":
        x = x.mean(1, keepdim=True).expand(-1, 16, -1, -1)  # averaging is the identity for equal channels alone
    for pair in range(0, 12, 2):
        first, second = network.blocks[pair : pair + 2]
        y = second(first(x))
        if first.conv.in_channels == second.conv.out_channels and first.conv.stride == (1, 1):
            torch.testing.assert_close(y, -x / math.sqrt(1 + second.norm.eps), rtol=1e-9, atol=0)
        x = y


def test_scheme_and_noise():
    network = LeakyNet(7, 1, init="cyclic_identity")
    for conv in convolutions(network):
        assert conv.weight.unique().tolist() == [0.0, 1.0]
    quiet, noisy = LeakyNet(7, 1, init="1111"), LeakyNet(7, 1, init="1111", noise_scale=0.1)
    for before, after in zip(convolutions(quiet), convolutions(noisy), strict=True):
        spread = 0.1 * math.sqrt(2 / (9 * before.out_channels))
        assert (after.weight - before.weight).std().item() == pytest.approx(spread, rel=0.15)
    assert not noisy.head.weight.any()


@pytest.mark.parametrize("letter", list("1ihkn"))
def test_every_letter_trains(letter, loader, make_trainer):
    network = LeakyNet(7, 1, 4, 1, init=letter * 4, dropout=0.1, regularizer="disout")
    trainer = make_trainer(max_steps=3, max_epochs=-1, log_every_n_steps=1)
    trainer.fit(network, loader)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert network.head.weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": "1_iiii"}, "has 5 letters: depth 16 takes 13 letters, .* 1 averaging, i identity, h random"),
        ({"init": "1_iiii_iixi_iiii"}, "has unknown letter 'x'"),
        ({"depth": 13}, "has 13 letters: depth 13 takes 10"),
        ({"depth": 12}, r"LeakyNet has depth 3n \+ 4"),
        ({"negative_slope": 0.0}, "negative_slope"),
        ({"widen_factor": 0}, "widen_factor"),
        ({"dropout": 2.0}, "dropout=2.0"),
        ({"regularizer": "cutout"}, "expected one of 'dropout', 'disout'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeakyNet(**{"widen_factor": 1, **arguments})
