"""Watching changes no bit of what is trained, whether the network runs as it is or compiled by its user."""

import warnings

import pytest
import torch
from tests.callbacks.training import Wrapped, images, train
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from symbreak.callbacks import (
    Acceleration,
    Determinism,
    ExactResume,
    FeatureDiversity,
    RankTrajectory,
    RoundingNoise,
    SignalPropagation,
    StopAtLevel,
    SymmetryBreaking,
    SymmetryTrace,
    Throughput,
)

MONITORS = [FeatureDiversity, RankTrajectory, SignalPropagation, SymmetryBreaking]


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Block(3), Block(4), nn.Dropout(0.1), nn.Flatten())
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.body(x))


def attribute(module, backend):
    module.network = torch.compile(module.network, backend=backend)
    return module


def part(module, backend):
    module.network.body = torch.compile(module.network.body, backend=backend)
    return module


def in_place(module, backend):
    module.network.compile(backend=backend)
    return module


def forward_only(module, backend):
    module.network.body.forward = torch.compile(module.network.body.forward, backend=backend)
    return module


def whole(module, backend):
    return torch.compile(module, backend=backend)


WAYS = {way.__name__: way for way in (attribute, part, in_place, forward_only, whole)}
WAYS["eager"] = lambda module, backend: module


def watchers(tmp_path):
    return {
        **{kind.__name__: [kind(every_n_steps=1)] for kind in MONITORS},
        "Throughput": [Throughput()],
        "Determinism": [Determinism("strict")],
        "SymmetryTrace": [SymmetryTrace(traced_steps=2)],
        "RoundingNoise": [RoundingNoise(0)],
        "Acceleration": [Acceleration()],
        "ExactResume": [ExactResume(str(tmp_path), every_n_steps=2)],
        "StopAtLevel": [StopAtLevel(2.0, metric="never")],
    }


def fit(way, callbacks):
    """Weights after a few steps, graphs that were compiled, the log, and warnings."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    module, counter = Wrapped(Net()), CompileCounterWithBackend("aot_eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, logger = train(WAYS[way](module, counter), callbacks, steps=4, loader=images(48))
    weights = torch.cat([value.flatten().double() for value in module.state_dict().values()])
    return weights, counter.frame_count, logger, [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def unwatched():
    return {way: fit(way, [])[:2] for way in WAYS}


@pytest.mark.parametrize("way", ["eager", "part"])
@pytest.mark.parametrize("name", watchers(""))
def test_no_bit_and_no_graph_depends_on_a_callback(unwatched, way, name, tmp_path):
    weights, graphs, _, _ = fit(way, watchers(tmp_path)[name])
    assert torch.equal(weights, unwatched[way][0])
    assert graphs == unwatched[way][1]


@pytest.mark.parametrize("way", WAYS)
def test_all_together_change_no_bit_however_the_network_is_compiled(unwatched, way):
    assert (unwatched[way][1] > 0) is (way != "eager")
    weights, graphs, _, _ = fit(way, [Throughput(), *(kind(every_n_steps=1) for kind in MONITORS)])
    assert torch.equal(weights, unwatched[way][0])
    assert graphs == unwatched[way][1]


def test_who_watches_would_be_seen_if_it_did(unwatched):
    assert not torch.equal(fit("eager", [RoundingNoise(1)])[0], unwatched["eager"][0])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "eager"])
def test_the_keys_are_those_of_the_network_and_what_is_missing_is_said_once(way):
    _, _, logger, said = fit(way, [SymmetryBreaking(every_n_steps=1), FeatureDiversity(every_n_steps=1)])
    keys = logger.keys("symmetry") | logger.keys("diversity")
    assert "symmetry/distinct_filters/network.body.0.conv" in keys
    assert not [key for key in keys if "_orig_mod" in key]
    assert sum("compiled as a whole" in text for text in set(said)) == 1
    assert not [text for text in said if "graph break" in text.lower()]
    part_alone = way in ("part", "forward_only")
    assert ("symmetry/feature_asymmetry/network.body" in keys) is part_alone
    assert ("symmetry/broken_step" in keys) is part_alone  # elsewhere nobody knows which layer is the last
