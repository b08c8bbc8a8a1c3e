"""Known truths: what breaks symmetry is put there by the test, or known not to be there."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from symbreak.callbacks.functional import distinct_rows
from symbreak.callbacks.tracing import trace
from symbreak.lightning_modules import MLP, ConstNet, LeakyNet, ResNet, TransformerLM

small = partial(ConstNet, depth=7, widen_factor=1, in_channels=1)


def batch(dtype=torch.float32, count=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator, dtype=dtype), torch.arange(count) % 10


def traced(network, steps=1, optimizer=None, data=None, between=lambda: None):
    """Trace training steps, all in one trace."""
    optimizer = optimizer or torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    images, labels = data or batch(next(network.parameters()).dtype)
    with trace(network, optimizer) as found:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            between()
            optimizer.step()
    return found


class Equal(nn.Module):
    """Two convolutions and a head whose channels all start out equal; the head passes a gradient on."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)
        for layer in (self.first, self.second):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.get_parameter("bias"))
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 10)[:, None].expand(10, width))

    def middle(self, x):
        return x

    def forward(self, x):
        return self.head(self.second(self.middle(torch.relu(self.first(x)))).mean((2, 3)))


def test_zero_init_in_strict_float32_is_separated_by_nothing():
    found = traced(small(), steps=3)
    assert str(found).startswith("no operation separated identical channels in 3 steps (")
    assert found.operations > 200
    assert found.steps == 3
    assert {change.weight for change in found.changes} == {"head.weight"}
    assert {event.kind for change in found.changes for event in change.causes} == {"labels"}


def test_initial_noise_is_named_by_layer():
    found = traced(small(noise_scale=0.1))
    layers = [name for name, p in small().named_parameters() if p.ndim == 4]
    assert list(found.initial) == layers
    assert str(found) == f"weights differed at the start: {', '.join(layers)}"
    assert found.separations == []


def test_dropout_is_named_with_its_module():
    found = traced(small(dropout=0.1), steps=2)
    assert found.first is not None
    assert (found.first.kind, found.first.operation) == ("randomness", "aten::bernoulli_")
    assert found.first.place.module == "blocks.0.regularizer"
    assert found.by_layer()["blocks.1.conv.weight"].place.module == "blocks.1.regularizer"
    assert found.separations == []


def test_values_of_the_user_are_named_with_their_line():
    class Scaled(Equal):
        def middle(self, x):
            return x * torch.linspace(1, 2, 8)[:, None, None]

    found = traced(Scaled())
    assert found.first is not None
    assert (found.first.kind, found.first.operation) == ("values", "aten::linspace")
    line = found.first.place.line
    assert line is not None
    assert (line.file, line.function.rpartition(".")[2]) == (__file__, "middle")
    assert "torch.linspace(1, 2, 8)" in Path(__file__).read_text().splitlines()[line.number - 1]
    assert {change.weight for change in found.changes} >= {"first.weight", "second.weight"}
    assert found.separations == []


def test_values_made_before_the_trace_are_named_where_they_are_used():
    class Scaled(Equal):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.linspace(1, 2, 8)[:, None, None])

        def middle(self, x):
            return x * self.scale

    found = traced(Scaled())
    assert found.first is not None
    assert (found.first.kind, found.first.subject) == ("values", "scale")
    assert found.first.place.line is not None
    assert found.first.place.line.function.endswith("middle")


def test_a_write_to_one_channel_is_named_with_its_line():
    class OneChannel(Equal):
        def middle(self, x):
            x = x.clone()
            x[:, 3] *= 1.5
            return x

    found = traced(OneChannel())
    assert found.first is not None
    assert found.first.kind == "values"
    assert found.first.place.line is not None
    assert found.first.place.line.function.endswith("middle")
    assert {change.weight for change in found.changes} >= {"first.weight", "second.weight"}


def test_noise_on_gradients_is_random_numbers_between_backward_and_optimizer():
    network = Equal()

    def noise():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(1 + 1e-7 * torch.rand_like(parameter.grad))

    found = traced(network, between=noise)
    assert found.first is not None
    assert (found.first.kind, found.first.place.phase) == ("randomness", "between backward and optimizer")
    assert found.first.place.line is not None
    assert found.first.place.line.function.endswith("noise")


def test_a_kernel_that_treats_channels_differently_is_a_separation():
    """An operation written for this test: equal channels in, the last one comes out larger by 2^13 roundings."""
    library = torch.library.Library("symbreak_test", "FRAGMENT")
    library.define("uneven(Tensor x) -> Tensor")

    def uneven(x):
        out = x.clone()
        out[:, -1] *= 1 + 2**-10
        return out

    library.impl("uneven", uneven, "CompositeExplicitAutograd")
    library.impl("uneven", lambda x: Uneven.apply(x), "Autograd")

    class Uneven(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch._C._AutoDispatchBelowAutograd():
                return torch.ops.symbreak_test.uneven(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Broken(Equal):
        def middle(self, x):
            return torch.ops.symbreak_test.uneven(x)

    found = traced(Broken())
    (event,) = found.separations
    assert found.first is event
    assert (event.operation, event.axis, event.slices, event.groups) == ("symbreak_test::uneven", 1, 8, 2)
    assert event.ulps is not None
    assert 2**12 < event.ulps <= 2**14
    assert found.by_layer()["second.weight"] is event
    assert "symbreak_test::uneven, float32, 8 slices in 2 groups, at most" in str(found)


class Transformer(TransformerLM):
    """Classifies images by their rows, as tokens."""

    def forward(self, images):
        tokens = images.mean((1, 3)).mul(3).long().remainder(10)
        return super().forward(tokens)[:, -1]


NETWORKS = {
    "ConstNet": small,
    "ConstNet scalar": lambda: small(norm="scalar"),
    "LeakyNet": lambda: LeakyNet(depth=7, widen_factor=1, in_channels=1, init="1_1_1_1"),
    "MLP": lambda: MLP(width=16, in_channels=1, image_size=8),
    "Equal": Equal,
    "ResNet under ZerO": lambda: ResNet(depth=8, family="cifar", in_channels=1, init="hadamard"),
    "transformer": lambda: Transformer(num_classes=10, context=8, depth=1, width=8, num_heads=2, heads="equal"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_changes_the_census_of_weights_has_a_cause(name, dtype):
    """If the trace of a step finds nothing, the census after it is unchanged."""
    network = NETWORKS[name]().to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    for _ in range(3):
        before = {key: int(distinct_rows(p)) for key, p in network.named_parameters() if p.ndim > 1}
        found = traced(network, optimizer=optimizer)
        after = {key: int(distinct_rows(p)) for key, p in network.named_parameters() if p.ndim > 1}
        changed = {change.weight: change for change in found.changes if change.axis == 0}
        assert {key for key in after if after[key] > before[key]} <= set(changed)
        assert all(change.after == after[key] for key, change in changed.items())
        assert all(change.causes for change in found.changes)


def test_tracing_changes_no_bit():
    plain, watched = (small(dropout=0.1) for _ in range(2))
    torch.manual_seed(1)
    traced(watched, steps=2)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    images, labels = batch()
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(plain(images), labels).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
