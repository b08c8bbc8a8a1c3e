import pytest
import torch
from tests.gpu.device import Keeper, fresh, needs_cuda, synchronisations, train

from symbreak.datamodules.sources import ResidentImages

pytestmark = needs_cuda


def test_a_step_never_waits_for_the_device():
    assert fresh(synchronisations, "cudnn", False) == 0
    assert fresh(synchronisations, "cudnn", False, True) >= 6


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_batches_prepared_ahead_are_those_of_the_cpu(monkeypatch, chunk):
    monkeypatch.setattr(ResidentImages, "batches_per_chunk", lambda self, batch_size: chunk)
    ours, theirs = Keeper(), Keeper()
    train("cudnn", 24, [ours])
    train("cudnn", 24, [theirs], accelerator="cpu")
    assert len(ours.batches) == len(theirs.batches) == 24
    for (images, labels), (images_too, labels_too) in zip(ours.batches, theirs.batches, strict=True):
        torch.testing.assert_close(images.cpu(), images_too, rtol=0, atol=1e-6)
        assert torch.equal(labels.cpu(), labels_too)
