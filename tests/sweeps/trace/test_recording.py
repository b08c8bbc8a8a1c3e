from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from symbreak.callbacks.tracing.recorder import Recorded, Recorder, fingerprint, fingerprint_of_all
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.trace.divergence import compare
from symbreak.sweeps.trace.recording import Recording


def operation(name="aten::mm", read=("a",), made=("b",), random=False):
    return Recorded(name, "forward, head", "float32[2, 2]", read, made, random)


def recording(*operations, weights=("w0", "w1")):
    return Recording({"torch": "2"}, list(weights), {0: list(operations)})


SAME = operation()
CASES = {
    "none": ((SAME,), (SAME,)),
    "operation": ((SAME, operation(made=("c",))), (SAME, operation(made=("d",)))),
    "random": ((operation(made=("c",), random=True),), (operation(made=("d",), random=True),)),
    "values": ((SAME, operation(read=("x",))), (SAME, operation(read=("y",)))),
    "structure": ((SAME, operation("aten::addmm")), (SAME, operation("aten::bmm"))),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_first_difference_is_found(kind):
    one, other = CASES[kind]
    found = compare(recording(*one), recording(*other))
    assert found.kind == kind
    assert found.index == (0 if kind in ("none", "random") else 1)
    assert (str(found) == "no divergence in 1 steps (1 operations compared)") is (kind == "none")


def test_a_run_with_more_operations_differs_in_structure():
    found = compare(recording(SAME), recording(SAME, operation("aten::add")))
    assert (found.kind, found.index) == ("structure", 1)


def test_weights_that_differ_at_the_start_or_in_steps_not_recorded_are_said():
    assert compare(recording(SAME), recording(SAME, weights=("v", "w1"))).kind == "weights"
    found = compare(recording(SAME, weights="abc"), recording(SAME, weights="abd"))
    assert (found.kind, found.step) == ("unknown", 2)


def test_a_recording_is_read_as_written(tmp_path):
    whole = recording(SAME, operation("aten::rand", read=(), random=True))
    whole.write(tmp_path / "a.json")
    assert Recording.read(tmp_path / "a.json") == whole
    (tmp_path / "b.json").write_text('{"format": "other"}')
    with pytest.raises(UsageError, match="not a recording"):
        Recording.read(tmp_path / "b.json")


def test_a_fingerprint_tells_bits_apart_and_not_layouts():
    tensor = torch.randn(3, 5, 33, 41)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) == fingerprint(tensor.contiguous(memory_format=torch.channels_last))
    other = tensor.clone()
    other[2, 4, 32, 40] = torch.nextafter(other[2, 4, 32, 40], torch.tensor(9.0))
    assert fingerprint(tensor) != fingerprint(other)
    assert fingerprint(torch.zeros(4)) != fingerprint(-torch.zeros(4))
    assert fingerprint(torch.zeros(0)) == "0" * 16
    assert fingerprint_of_all([tensor, other]) != fingerprint_of_all([other, tensor])


def recorded_step(network, optimizer, images, labels):
    with Recorder(network, [optimizer]) as recorder:
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    return recorder.operations


def test_a_step_of_a_500_layer_network_takes_less_than_a_megabyte(tmp_path):
    network = ConstNet(depth=502, widen_factor=1, in_channels=1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    operations = recorded_step(network, optimizer, torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    assert len(operations) > 500
    Recording({}, ["w"], {0: operations}).write(tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_size < 1e6


def test_equal_steps_have_equal_recordings_and_another_seed_has_not():
    def step(seed):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(8, 1, 8, 8, generator=generator)
        return recorded_step(network, torch.optim.AdamW(network.parameters()), images, torch.arange(8))

    one = step(0)
    assert one == step(0)
    assert one != step(1)
    assert {replace(each, read=(), made=(), place="") for each in one} == {
        replace(each, read=(), made=(), place="") for each in step(1)
    }
