"""What the tracer finds in a network, the audit finds in the operation alone, on the same machine."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.callbacks.tracing import Event, trace
from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.contractions import convolution_name
from symbreak.callbacks.tracing.places import Place
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.audit.cases import Case, Precision
from symbreak.sweeps.audit.evaluation import evaluate
from symbreak.sweeps.trace.verdicts import audit_verdict, audited


def steps(network, dtype, count=3):
    """Return what separates channels in some steps."""
    network = network.to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    with trace(network, optimizer) as found:
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(network(images), torch.arange(16) % 10).backward()
            optimizer.step()
    return found.separations


@pytest.mark.parametrize(("precision", "dtype"), [("float64", torch.float64), ("float32", torch.float32)])
def test_every_separation_is_an_asymmetry_of_the_audit(precision, dtype):
    first = {
        audited(event): event
        for event in steps(ConstNet(depth=7, widen_factor=1, in_channels=1), dtype)
        if audited(event)
    }
    verdicts = {names: audit_verdict(event) for names, event in first.items()}
    known = evaluate("cpu", "strict", 2, [Case("linear_column_grad", precision, "8x64x8x8")])
    assert first or known[0].symmetric
    assert all(verdict.startswith("asymmetric") for verdict in verdicts.values()), verdicts


class Equal(nn.Module):
    """A 3x3 convolution between equal channels and batch norm; the head passes the same gradient to each channel."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, 10)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in (self.first.weight, self.second.weight):
                weight.copy_(0.1 * torch.randn(1, *weight.shape[1:], generator=generator).expand_as(weight))
            self.head.weight.copy_(torch.randn(10, 1, generator=generator).expand(10, channels))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.second(self.first(x)))).mean((2, 3)))


FORMATS = ("contiguous", "channels_last")
KNOWN: dict[str, tuple[str, Precision, torch.dtype, str]] = {
    "SGD in bfloat16": ("sgd_forloop", "bfloat16", torch.bfloat16, "any"),
    "SGD in float32": ("sgd_forloop", "float32", torch.float32, "any"),
    "batch norm in channels_last": ("batch_norm_input_grad", "float32", torch.float32, "channels_last"),
    "batch norm": ("batch_norm_input_grad", "float32", torch.float32, "contiguous"),
}


@pytest.mark.parametrize("channels", [16, 17])
@pytest.mark.parametrize("name", KNOWN)
def test_the_update_and_batch_norm_are_named_where_the_audit_finds_them_asymmetric(name, channels):
    operation, precision, dtype, layout = KNOWN[name]
    (known,) = evaluate("cpu", "strict", 2, [Case(operation, precision, f"8x{channels}x8x8", layout)])
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = Equal(channels).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    found = {each for event in steps(network, dtype, count=30) for each in audited(event)}  # few values round apart
    assert (operation in found) is (not known.symmetric)


class Grouped(nn.Module):
    """A convolution in two groups of equal filters; numbers of float32 would leave nothing to round in float64."""

    def __init__(self, channels):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False, dtype=torch.float64)
        filters = torch.randn(1, channels // 2, 3, 3, generator=generator, dtype=torch.float64)
        self.convolution.weight.data.copy_(filters.expand_as(self.convolution.weight))

    def forward(self, x):
        return self.convolution(x)


@pytest.mark.parametrize("channels", [16, 34])
def test_a_grouped_convolution_has_the_verdict_of_the_grouped_case(channels):
    name, sizes = "grouped_conv3x3_forward", dict.fromkeys((channels, 16, 17, 64))
    cases = [Case(name, "float64", f"8x{size}x8x8", layout) for size in sizes for layout in FORMATS]
    known = evaluate("cpu", "strict", 2, cases)
    images = torch.randn(8, channels // 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Grouped(channels)
    with trace(network) as found:
        network(images.repeat(1, 2, 1, 1))
    assert [audited(event) for event in found.separations] == [(name,)] * (not known[0].symmetric)
    bad = sum(not each.symmetric for each in known)
    for event in found.separations:
        assert audit_verdict(event).startswith(f"asymmetric in {bad} of {len(cases)} cases")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nn.Conv2d(4, 6, 3), ("conv3x3_forward",)),
        (nn.Conv2d(4, 6, 3, groups=2), ("grouped_conv3x3_forward",)),
        (nn.Conv2d(4, 6, 5, groups=2), ()),
        (nn.Conv2d(4, 4, 3, groups=4), ()),
        (nn.ConvTranspose2d(4, 6, 3), ()),
        (nn.Conv1d(4, 6, 3), ()),
    ],
)
def test_a_convolution_that_the_audit_lacks_is_not_audited(make, name):
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(convolution_name(Call(func, args, kwargs or {})))
            return func(*args, **(kwargs or {}))

    with Watch():
        make(torch.randn(2, 4, *[8] * (make.weight.ndim - 2)))
    place, shape = Place("forward", "", None), (2, 6, 6, 6)
    event = Event(0, "separation", "aten::convolution", "", place, 1, "float64", shape, 1, 2, 1.0, 1, "".join(seen))
    assert audited(event) == name
    assert (audit_verdict(event) == "not audited") is (name == ())


class Replicas(nn.Module):
    """Four replicas of a linear layer as one batched product; all columns of a replica are equal."""

    def __init__(self, channels):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        columns = torch.randn(4, channels, 1, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(columns.repeat(1, 1, channels))

    def forward(self, x):
        return torch.bmm(x, self.weight)


@pytest.mark.parametrize("channels", [16, 17, 67])
def test_a_batched_product_is_named_where_the_audit_finds_it_asymmetric(channels):
    (known,) = evaluate("cpu", "strict", 2, [Case("bmm_forward", "float64", f"8x{channels}x8x8")])
    x = torch.randn(4, 8, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Replicas(channels)
    with trace(network, batch=x) as found:
        network(x)
    assert {event.operation for event in found.separations} == (set() if known.symmetric else {"aten::bmm"})
    assert all("bmm_forward" in audited(event) for event in found.separations)
