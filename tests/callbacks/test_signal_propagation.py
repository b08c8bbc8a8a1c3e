import pytest
import torch
from pytorch_lightning.plugins import Precision
from tests.callbacks.training import Wrapped, images, train
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from symbreak.callbacks import SignalPropagation


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 6), nn.Linear(6, 10))


def expected(model, x, y):
    """Mean squares and cosine of the first convolution's output, from a pass of one's own."""
    h = model[0](x).detach().requires_grad_()
    cross_entropy(model[4](model[3](torch.relu(h).flatten(1))), y).backward()
    assert h.grad is not None
    unit = nn.functional.normalize(h.detach().flatten(1))
    n = len(x)
    cosine = (unit @ unit.T).sum().sub(n) / (n * (n - 1))
    return [float(h.square().mean()), float(h.grad.square().mean()), float(cosine)]


def measured(logger, layer="network.0", step=0):
    names = ("activation_square", "gradient_square", "input_cosine")
    return [logger.series(f"propagation/{name}/{layer}")[step] for name in names]


def test_values_are_those_of_the_step():
    model = network()
    x, y = next(iter(images()))
    values = expected(model, x, y)
    _, logger = train(Wrapped(model), [SignalPropagation(every_n_steps=1, samples=None)], steps=1)
    assert measured(logger) == pytest.approx(values, rel=1e-5)
    layers = [logger.series(f"propagation/input_cosine/network.{i}")[0] for i in (0, 3)]
    assert logger.series("propagation/input_cosine")[0] == pytest.approx(sum(layers) / 2)


def test_micro_batches_together_give_the_value_of_the_whole_batch():
    model = network()
    (x, y), *_ = images(batch_size=32)
    values = expected(model, x, y)
    callback = SignalPropagation(every_n_steps=1, samples=None)
    _, logger = train(Wrapped(model), [callback], steps=1, loader=images(batch_size=8), accumulate_grad_batches=4)
    assert measured(logger) == pytest.approx(values, rel=1e-5)


def test_only_the_first_samples_take_part():
    model = network()
    x, _ = next(iter(images()))
    square = float(model[0](x[:3]).square().mean())
    _, logger = train(Wrapped(model), [SignalPropagation(every_n_steps=1, samples=3)], steps=1)
    assert logger.series("propagation/activation_square/network.0")[0] == pytest.approx(square, rel=1e-5)


class Scaling(Precision):
    """Multiplies the loss, as mixed precision does, and says by what."""

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def pre_backward(self, tensor, module):
        return self.scaler.scale(tensor)


def test_the_scale_of_a_loss_is_taken_out_of_the_gradients():
    def gradient(**options):
        torch.manual_seed(0)
        return measured(train(Wrapped(network()), [SignalPropagation(every_n_steps=1)], steps=1, **options)[1])[1]

    assert gradient(plugins=[Scaling()]) == pytest.approx(gradient(), rel=1e-5)


def test_the_scale_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(Scaling.scaler, "get_scale", None)
    train(Wrapped(network()), [SignalPropagation(every_n_steps=1)], steps=1, plugins=[Scaling()])


def test_a_single_input_has_no_cosine():
    _, logger = train(Wrapped(network()), [SignalPropagation(every_n_steps=1, samples=1)], steps=2)
    assert "propagation/activation_square/network.0" in logger.keys("propagation")
    assert not [key for key in logger.keys("propagation") if "input_cosine" in key]


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.hidden, self.head = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 10)
        self.reentrant = reentrant

    def forward(self, x):
        h = self.stem(x.flatten(1))
        h = self.hidden(h) if self.reentrant is None else checkpoint(self.hidden, h, use_reentrant=self.reentrant)
        return self.head(torch.relu(h))


def test_activation_checkpointing_changes_no_value_and_no_output_layer():
    def values(reentrant):
        torch.manual_seed(0)
        callback = SignalPropagation(every_n_steps=1)
        _, logger = train(Wrapped(Checkpointed(reentrant)), [callback], steps=3)
        assert callback.output_layer == "network.head"
        return logger.rows

    plain = values(None)
    assert "propagation/gradient_square/network.hidden" in plain[0][1]
    assert values(True) == values(False) == plain
