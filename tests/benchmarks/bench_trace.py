"""What a traced step, and watching with snapshots, cost a training step."""

import torch
from tests.benchmarks.loops import RandomImages, lightning

from symbreak.callbacks import SymmetryTrace
from symbreak.callbacks.tracing import trace
from symbreak.lightning_modules import ConstNet


def test_a_traced_step(compare, record):
    network = ConstNet(16, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9)
    images, labels = torch.randn(128, 3, 32, 32), torch.arange(128) % 10

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    def traced():
        with trace(network, optimizer):
            step()

    seconds = compare({"traced": traced, "plain": step}, 7)
    record("traced step / untraced step, ConstNet 16-1, batch 128", seconds["traced"] / seconds["plain"], "<= 15")


def test_watching(compare_loops, record):
    loops = {
        name: lightning(ConstNet(16, 4), RandomImages(batch_size=128), callbacks)
        for name, callbacks in {"watched": [SymmetryTrace()], "plain": []}.items()
    }
    seconds = compare_loops(loops, 2, 7)
    share = 100 * (seconds["watched"] - seconds["plain"]) / seconds["plain"]
    record("SymmetryTrace, % of a step, ConstNet 16-4, batch 128", share, "<= 5")
