"""What the tracer finds in a network, the audit finds in the operation alone, on the same machine."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from symbreak.callbacks.tracing import trace
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.audit.cases import Case
from symbreak.sweeps.audit.evaluation import evaluate
from symbreak.sweeps.trace.verdicts import audit_verdict, audited


def separations(dtype):
    network = ConstNet(depth=7, widen_factor=1, in_channels=1).to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    with trace(network, optimizer) as found:
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(network(images), torch.arange(16) % 10).backward()
            optimizer.step()
    return found.separations


@pytest.mark.parametrize(("precision", "dtype"), [("float64", torch.float64), ("float32", torch.float32)])
def test_every_separation_is_an_asymmetry_of_the_audit(precision, dtype):
    first = {audited(event): event for event in separations(dtype) if audited(event)}
    verdicts = {names: audit_verdict(event) for names, event in first.items()}
    known = evaluate("cpu", "strict", 2, [Case("linear_column_grad", precision, "8x64x8x8")])
    assert first or known[0].symmetric
    assert all(verdict.startswith("asymmetric") for verdict in verdicts.values()), verdicts
