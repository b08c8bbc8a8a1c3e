import pytest
import torch
import torchvision
from torch import nn

from symbreak.lightning_modules import MLP, ConstNet, LeakyNet, ResNet
from symbreak.sweeps.compare.barrier import barrier
from symbreak.sweeps.compare.channels import channel_groups
from symbreak.sweeps.compare.matching import match, permuted
from symbreak.sweeps.compare.network import Probe
from symbreak.sweeps.compare.weights import relative_distances
from symbreak.sweeps.errors import UsageError

NETWORKS = {
    "ConstNet": lambda: ConstNet(depth=10, widen_factor=1, init="he", in_channels=1),
    "ConstNet without norm": lambda: ConstNet(depth=7, widen_factor=1, init="he", norm="scalar", in_channels=1),
    "LeakyNet": lambda: LeakyNet(depth=7, widen_factor=1, init="h_hhh", in_channels=1),
    "ResNet": lambda: ResNet(depth=8, family="cifar", in_channels=1),
    "ResNet without norm": lambda: ResNet(depth=8, family="cifar", norm="scalar", in_channels=1),
    "MLP": lambda: MLP(depth=4, width=32, in_channels=1, init="he"),
}
GROUPS = {
    # a residual stream per width, the first of them with the stem
    "ConstNet": [16, 32, 64],
    "ConstNet without norm": [16, 32, 64],
    # no streams: stem and every block
    "LeakyNet": [16, 16, 32, 64],
    # a stream per width, and the inside of each block
    "ResNet": [16, 16, 32, 32, 64, 64],
    "ResNet without norm": [16, 16, 32, 32, 64, 64],
    "MLP": [32, 32, 32],
}


def trained(name):
    """Return a network with generic values in all parameters and running statistics, and its images."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for value in [*network.parameters(), *network.buffers()]:
            if value.is_floating_point() and value.ndim:
                value.add_(0.1 * torch.rand_like(value))
    return network, torch.randn(16, 1, 8, 8)


def shuffled(state, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return permuted(state, groups, [torch.randperm(group.size, generator=generator) for group in groups])


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_meet_share_a_group_and_permuting_them_keeps_the_function(name):
    network, images = trained(name)
    groups = channel_groups(network)
    assert sorted(group.size for group in groups) == sorted(GROUPS[name])
    state = network.state_dict()
    other = shuffled(state, groups)
    changed = {key for key in state if state[key].is_floating_point() and not state[key].equal(other[key])}
    assert {key for key in state if key.endswith("weight") and state[key].ndim > 1} <= changed
    probe = Probe(network, images, torch.zeros(16, dtype=torch.long))
    torch.testing.assert_close(probe.logits(other), probe.logits(state), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_copy_is_matched_exactly_without_a_barrier(name):
    network, images = trained(name)
    state, groups = {key: value.clone() for key, value in network.state_dict().items()}, channel_groups(network)
    other = shuffled(state, groups)
    probe = Probe(network, images, torch.arange(16) % 10)
    found = permuted(other, groups, match(state, other, groups))
    assert relative_distances([state, other], [(0, 1)], probe.parameters)[0, 1] > 0.1
    assert relative_distances([state, found], [(0, 1)], probe.parameters)[0, 1] == 0
    assert barrier(probe.loss, state, found) <= 1e-6 * probe.loss(state)


def test_matching_never_moves_networks_further_apart():
    first, second = (NETWORKS["ConstNet"]() for _ in range(2))
    groups = channel_groups(first)
    a, b = first.state_dict(), second.state_dict()
    moved = permuted(b, groups, match(a, b, groups))
    names = [name for name, _ in first.named_parameters()]
    before, after = relative_distances([a, b, moved], [(0, 1), (0, 2)], names).values()
    assert after < before


def test_one_layer_is_matched_as_well_as_by_trying_all_orders():
    from itertools import permutations

    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(2))
    (group,) = groups = channel_groups(first)
    a, b = first.state_dict(), second.state_dict()

    def distance(order):
        moved = permuted(b, groups, [torch.tensor(order)])
        return float(sum((a[name] - moved[name]).square().sum() for name in a))

    best = min(map(distance, permutations(range(group.size))))
    assert distance(match(a, b, groups)[0].tolist()) == pytest.approx(best)


def test_torchvision_networks_are_followed_too():
    network = torchvision.models.resnet18(num_classes=10).eval()
    groups = channel_groups(network)
    state, images = network.state_dict(), torch.randn(2, 3, 32, 32)
    probe = Probe(network, images, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(probe.logits(shuffled(state, groups)), probe.logits(state), rtol=1e-4, atol=1e-4)
    assert len(groups) == 12  # 4 streams and the inside of 8 blocks


def test_what_cannot_be_followed_keeps_its_place():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 3))
    assert channel_groups(network) == []


def test_a_network_that_cannot_be_traced_is_named():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="the channels of Choosing cannot be matched"):
        channel_groups(Choosing())
