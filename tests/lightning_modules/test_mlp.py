from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from symbreak.lightning_modules import MLP
from symbreak.lightning_modules import initialization as init


@pytest.mark.parametrize("depth", [2, 4])
def test_architecture(depth):
    network = MLP(depth, 32, num_classes=5, in_channels=3, image_size=4)
    shapes = [tuple(layer.weight.shape) for layer in network.layers if isinstance(layer, nn.Linear)]
    assert shapes == [(32, 48), *[(32, 32)] * (depth - 2), (5, 32)]
    assert network(torch.randn(2, 3, 4, 4)).shape == (2, 5)


def test_zero_is_the_default():
    network: Any = MLP(3, 32, num_classes=5, in_channels=1, image_size=4)
    first, second, head = (layer.weight for layer in network.layers if isinstance(layer, nn.Linear))
    assert first.equal(init.hadamard_(torch.empty(32, 16)))
    assert second.equal(torch.eye(32))
    assert head.equal(torch.eye(5, 32))


@pytest.mark.parametrize(("scheme", "above"), [("partial_identity", False), ("zero", True)])
def test_rank_of_the_hidden_change(scheme, above):
    """Partial identity confines training to as many dimensions as the input has; Hadamard does not."""
    digits: Any = load_digits()
    images = torch.from_numpy(digits.images[:512]).float().div(16).unsqueeze(1)
    images = nn.functional.avg_pool2d(images, 2)  # 16 inputs, so that a narrow network is wider than they are
    targets = torch.from_numpy(digits.target[:512])
    network: Any = MLP(4, 48, in_channels=1, image_size=4, init=scheme)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    ranks, losses = [], []
    for _ in range(60):
        loss = network.training_step((images, targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        change = network.layers[2].weight.detach().double() - torch.eye(48)
        ranks.append(torch.linalg.matrix_rank(change, rtol=1e-5).item())
    assert losses[-1] < losses[0]
    assert max(ranks) > 0
    assert (max(ranks) > 16) == above


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images of shape \(1, 5, 5\): image_size expects \(1, 4, 4\)"):
        MLP(2, 8, in_channels=1, image_size=4)(torch.zeros(2, 1, 5, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 1}, "depth=1: expected at least 2"),
        ({"width": 0}, "width=0: expected at least 1"),
        ({"image_size": 0}, "image_size=0: expected at least 1"),
        ({"init": "identity"}, r"init 'identity' does not fit 0"),
        ({"init": "fixup"}, "init 'fixup' needs residual branches"),
        ({"hadamard_scale": "text"}, "hadamard_scale='text'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{"width": 32, "in_channels": 1, "image_size": 4, **arguments})
