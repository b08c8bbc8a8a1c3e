"""What a traced step costs."""

import torch

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
