"""What a traced step costs, what watching costs a step, and the size of a recorded step."""

import torch
from tests.benchmarks.loops import RandomImages, lightning

from symbreak.callbacks import SymmetryTrace
from symbreak.callbacks.tracing import trace
from symbreak.callbacks.tracing.recorder import Recorder
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.trace.recording import Recording


def step_of(network, batch, size, channels=3):
    """A training step of a plain loop, and its optimiser."""
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9)
    images, labels = torch.randn(batch, channels, size, size), torch.arange(batch) % 10

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step, optimizer


def test_a_traced_step(compare, record):
    network = ConstNet(16, 1)
    step, optimizer = step_of(network, 128, 32)

    def traced():
        with trace(network, optimizer):
            step()

    seconds = compare({"traced": traced, "plain": step}, 7)
    record("traced step / untraced step, ConstNet 16-1, batch 128", seconds["traced"] / seconds["plain"], "<= 15")


def test_watching_with_snapshots(compare_loops, record):
    loops = {
        name: lightning(ConstNet(16, 4), RandomImages(batch_size=size), callbacks)
        for name, size, callbacks in (("watched", 8, [SymmetryTrace()]), ("plain", 8, []), ("whole", 128, []))
    }  # what watching costs does not depend on the batch
    seconds = compare_loops(loops, 1, 7)
    share = 100 * (seconds["watched"] - seconds["plain"]) / seconds["whole"]
    record("census and snapshot at every step, % of a step, ConstNet 16-4, batch 128", share, "<= 5")


def test_a_recorded_step_of_500_layers(benchmark, record, tmp_path):
    network = ConstNet(502, 1, in_channels=1)
    step, optimizer = step_of(network, 2, 8, channels=1)
    with Recorder(network, [optimizer]) as recorder:
        step()
    whole = Recording({}, ["w"], {0: recorder.operations})
    benchmark.pedantic(whole.write, args=(tmp_path / "a.json",), rounds=1)
    record("recorded step of 502 layers, MB", (tmp_path / "a.json").stat().st_size / 1e6, "< 1")
