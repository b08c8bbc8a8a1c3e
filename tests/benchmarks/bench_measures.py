"""The measures against the published procedure, and the memory that they take."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.benchmarks import sampled_reference

from symbreak.callbacks import FeatureDiversity, SymmetryBreaking, functional
from symbreak.callbacks.layers import WeightLayer, weight_layers
from symbreak.callbacks.measurements import DeviceBuffer
from symbreak.callbacks.stacks import stacks
from symbreak.lightning_modules import ConstNet

REPEATS = 30
CORRELATIONS = ("forward_correlation", "backward_correlation", "kernel_correlation")


def weights(device, init: Any = "he", **arguments):
    network = ConstNet(init=init, **arguments).to(device)
    return {layer.name: layer.weight().detach() for layer in weight_layers(network)}


def measure(weights):
    """Every weight measure of every layer, as the two callbacks take them at one step."""
    layers = [(WeightLayer(name, name, lambda x=x: x, 0, (0, name)), None) for name, x in weights.items()]
    buffer = DeviceBuffer()
    for callback in (FeatureDiversity(), SymmetryBreaking()):
        for stack, _ in stacks(layers):
            sums = callback.measure_weights(stack)
            buffer.add(0, [(stack.names, sums.values, sums.measures)])
    found = {}
    for _, row in buffer.drain():
        for layer, measures in row.items():
            found.setdefault(layer, {}).update(measures)
    return found


def reference(weights, sample=sampled_reference.SAMPLE):
    random = np.random.default_rng(0)
    return {
        name: sampled_reference.weight_correlations(weight.cpu().numpy(), random, sample)
        for name, weight in weights.items()
    }


@pytest.mark.parametrize("init", ["he", "zero"])
def test_weight_measures_of_const_net_16_10(compare, record, device, init):
    network = weights(device, init, depth=16, widen_factor=10)

    def exact():
        for _ in range(REPEATS):  # about as long as one turn of the reference
            measure(network)

    def read():
        for _ in range(REPEATS):
            for weight in network.values():
                weight.sum()

    seconds = compare({"exact": exact, "sampled": lambda: reference(network), "read": read}, rounds=7)
    ratio = seconds["sampled"] / (seconds["exact"] / REPEATS)
    record(f"sampled reference / all exact weight measures, {init} init", ratio, ">= 50")
    record(
        f"all exact weight measures / one read (sum) of the weights, {init} init",
        seconds["exact"] / seconds["read"],
        "<= 20",
    )


def test_equal_to_the_reference_where_it_does_not_sample(benchmark, record, device):
    network = {name: weight.double() for name, weight in weights(device, depth=10, widen_factor=2).items()}
    ours = benchmark.pedantic(measure, args=(network,), rounds=1)
    theirs = reference(network, sample=10**9)
    pairs = [
        (ours[layer][name], value)
        for layer, values in theirs.items()
        for name, value in zip(CORRELATIONS, values, strict=True)
        if name in ours[layer]
    ]
    error = max(abs(a - b) for a, b in pairs)
    assert error < 1e-10
    record(f"largest difference of {len(pairs)} correlations in float64", error, "< 1e-10")


MEASURES = {
    "weight_correlations": functional.weight_correlations,
    "distinct_rows": functional.distinct_rows,
    "distinct_rows of inputs": lambda weight: functional.distinct_rows(weight.transpose(0, 1)),
    "asymmetry": functional.asymmetry,
    "forward_correlation": functional.forward_correlation,
    "backward_correlation": functional.backward_correlation,
    "kernel_correlation": functional.kernel_correlation,
}


def peak_bytes(function, *arguments):
    """The most bytes that a call held at a time beyond what there was before."""
    function(*arguments)
    if arguments[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function(*arguments)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function(*arguments)
    profiler: Any = profile.profiler
    events = profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([0, *(change for _, change in changes)]).max())


@pytest.mark.parametrize("state", ["he", "zero"])
def test_peak_memory(benchmark, record, device, state):
    weight = weights(device, state, depth=16, widen_factor=10)["blocks.10.conv"]
    found = {name: peak_bytes(measure, weight) / weight.nbytes for name, measure in MEASURES.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    for name, share in found.items():
        record(f"{name}, {state} init: extra bytes / bytes of the weight", share, "<= 1")
