"""Compiled code is one operation of a trace, runs as without one, and the verdict says so."""

import pytest
import torch
from pytorch_lightning import Trainer
from tests.callbacks.training import images
from torch import nn
from torch.nn.functional import cross_entropy

from symbreak.callbacks import Determinism, SymmetryTrace
from symbreak.callbacks.tracing import trace
from symbreak.lightning_modules import ConstNet

DATA = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 10


def network(**options):
    return ConstNet(depth=7, widen_factor=1, in_channels=3, **options)


def compile_blocks(model):
    for block in model.blocks:
        block.compile(backend="aot_eager")


def compile_forwards(model):
    for block in model.blocks:
        block.forward = torch.compile(block.forward, backend="aot_eager", dynamic=False)


def steps(model, count=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        cross_entropy(model(DATA), LABELS).backward()
        optimizer.step()
        yield


@pytest.mark.parametrize("compile", [compile_blocks, compile_forwards])
def test_compiled_blocks_that_separate_nothing(compile):
    model = network()
    compile(model)
    with trace(model) as found:
        list(steps(model, 3))
    assert found.compiled == ("blocks.0", "blocks.1", "blocks.2")
    assert str(found).startswith("no operation separated identical channels in 3 steps (")
    assert str(found).endswith(" (blocks.0, blocks.1, blocks.2: a compiled region is one operation)")


@pytest.mark.parametrize("is_warm", [False, True])
def test_random_numbers_in_compiled_code_are_named_by_its_module_and_no_bit_changes(is_warm):
    weights = []
    for traced in (True, False):
        torch.manual_seed(0)
        model = network(dropout=0.1)
        compile_blocks(model)
        run = steps(model)
        if is_warm:
            next(run)
        if traced:
            with trace(model) as found:
                list(run)
            cause = found.cause
            assert cause is not None
            assert (cause.kind, cause.operation) == ("randomness", "compiled region")
            assert cause.place.module == "blocks.2"
        else:
            list(run)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)


class Scaled(nn.Module):
    """Multiplies each channel by a number of its own."""

    def forward(self, x):
        return x * torch.linspace(1, 2, x.shape[1])[:, None, None]


class Model(nn.Module):
    """Equal channels in, and a middle part; the head passes a gradient on."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3), middle
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)
        for parameter in (*self.first.parameters(), *self.second.parameters()):
            nn.init.constant_(parameter, 0.1)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 10)[:, None].expand(10, 8))

    def forward(self, x):
        return self.head(self.second(self.middle(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize("backward", [False, True])
def test_compiled_code_that_makes_equal_channels_differ_is_a_separation(backward):
    class Backward(nn.Module):
        def forward(self, x):
            scale = torch.linspace(1, 2, x.shape[1])[:, None, None]
            return x.detach() + (x - x.detach()) * scale

    model = Model(Backward() if backward else Scaled())
    model.middle.compile(backend="aot_eager")
    with trace(model) as found:
        list(steps(model, 1))
    (first, *_) = found.separations
    assert found.cause is first
    assert (first.operation, first.place.module, first.axis, first.groups) == ("compiled region", "middle", 1, 8)
    assert first.place.phase == ("backward" if backward else "forward")
    changed = {(change.weight, change.axis) for change in found.changes}
    assert ("first.weight", 0) in changed
    assert (("second.weight", 1) in changed) is not backward


def test_a_compiled_network_is_one_operation_and_is_left_as_it_was():
    model = torch.compile(network(noise_scale=0.1), backend="aot_eager")
    assert isinstance(model, nn.Module)
    code = model.forward
    with trace(model) as found:
        list(steps(model, 1))
    assert found.compiled == ("OptimizedModule",)
    assert found.separations == []  # weights that differ may make outputs differ
    assert model.forward is code


def test_a_step_with_compiled_code_is_replayed_exactly():
    model = network(dropout=0.1)
    compile_blocks(model)
    watch = SymmetryTrace()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_steps=3, accelerator="cpu", callbacks=[Determinism("strict"), watch], **quiet)
    trainer.fit(model, images())
    assert watch.found is not None
    assert (watch.found.shown, watch.found.exact) == (1, True)
    assert str(watch.found).startswith("symmetry broke at step 2: random numbers, compiled region, ")
    assert str(watch.found).endswith("(blocks.0, blocks.1, blocks.2: a compiled region is one operation)")
