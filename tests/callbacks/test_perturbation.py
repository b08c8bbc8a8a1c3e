import math
import warnings

import pytest
import torch
from tests.callbacks.training import Wrapped, train
from torch import nn

from symbreak.callbacks import Perturbation
from symbreak.callbacks.perturbation import flip_, perturb_, step_


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 10))


class Noting(Wrapped):
    """Notes the weights that each step's forward pass uses."""

    def __init__(self, learning_rate=0.0):
        super().__init__(network(), learning_rate)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append({name: p.detach().clone() for name, p in self.named_parameters()})
        return super().training_step(batch, batch_idx)


def changed(before, after):
    return {name: int((before[name] != after[name]).sum()) for name in before if not before[name].equal(after[name])}


@pytest.mark.parametrize("kind", ["bit", "ulp", "noise"])
@pytest.mark.parametrize("scope", ["weight", "layer", "all"])
def test_the_scope_changes_at_its_step_and_is_logged_once(kind, scope):
    module = Noting()
    _, logger = train(module, [Perturbation(kind, step=2, scope=scope, seed=3)], steps=4)
    assert changed(module.seen[0], module.seen[1]) == changed(module.seen[2], module.seen[3]) == {}
    counts = changed(module.seen[1], module.seen[2])
    sizes = {name: value.numel() for name, value in module.seen[0].items() if value.ndim > 1}
    if scope == "weight":
        assert list(counts.values()) == [1]
    elif scope == "layer":
        ((name, count),) = counts.items()
        assert count == sizes[name]
    else:
        assert counts == sizes
    assert logger.series("perturbation/entries") == {2: sum(counts.values())}
    differences = [(module.seen[2][name] - module.seen[1][name]).double() for name in sizes]
    norm = math.sqrt(sum(float(d.square().sum()) for d in differences))
    assert logger.series("perturbation/distance") == {2: pytest.approx(norm, rel=1e-12)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_lowest_bit_and_one_ulp_are_neighbouring_numbers(dtype):
    values = torch.randn(1000, dtype=torch.float64).to(dtype)
    up, down = (torch.nextafter(values, torch.full_like(values, sign * math.inf)) for sign in (1, -1))
    for moved in (flip_(values.clone(), 0), step_(values.clone(), torch.Generator().manual_seed(0))):
        assert ((moved == up) | (moved == down)).all()
        assert (moved == up).any()
        assert (moved == down).any()
    assert torch.equal(flip_(flip_(values.clone(), 3), 3), values)
    sign = 8 * values.element_size() - 1
    assert torch.equal(flip_(values.clone(), sign), -values)
    zeros = step_(torch.zeros(5, dtype=dtype), torch.Generator())
    assert torch.equal(zeros, torch.nextafter(torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)))


def test_noise_has_the_size_of_noise_before_training():
    weight = nn.Parameter(torch.zeros(200, 50, 3, 3))
    assert perturb_({"a": weight}, "noise", "all", torch.Generator().manual_seed(0), scale=0.1) == "all 1 layers"
    assert weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / (200 * 9)), rel=0.01)


def test_one_seed_makes_the_same_change_and_another_another_one():
    def final(seed):
        module = Noting(0.1)
        train(module, [Perturbation("bit", step=1, seed=seed)], steps=4)
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(final(0), final(0))
    assert not torch.equal(final(0), final(1))


def test_no_global_random_number_is_drawn():
    states = []
    for kind in ("none", "noise"):
        torch.manual_seed(0)
        train(Noting(), [Perturbation(kind, scope="all")], steps=2)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_default_seed_follows_the_global_one(monkeypatch):
    ends = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        module = Noting()
        train(module, [Perturbation("noise")], steps=1)
        ends.append(changed(dict(network().named_parameters(prefix="network")), module.seen[0]))
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


def test_a_resumed_run_is_not_perturbed_again(tmp_path):
    module = Noting()
    trainer, _ = train(module, [Perturbation("noise", step=2)], steps=2)
    trainer.save_checkpoint(tmp_path / "before.ckpt")
    before = Noting()
    _, logger = train(before, [Perturbation("noise", step=2)], steps=4, ckpt_path=tmp_path / "before.ckpt")
    assert logger.series("perturbation/entries") == {2: 1}
    trainer, _ = train(Noting(), [Perturbation("noise", step=2)], steps=3)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    _, logger = train(Noting(), [Perturbation("noise", step=2)], steps=5, ckpt_path=tmp_path / "after.ckpt")
    assert logger.series("perturbation/entries") == {}


def test_accumulated_micro_batches_are_perturbed_once():
    module = Noting()
    train(module, [Perturbation("noise", step=1)], steps=2, accumulate_grad_batches=2)
    assert [bool(changed(a, b)) for a, b in zip(module.seen, module.seen[1:], strict=False)] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "quake"}, "allowed: none, bit, ulp, noise"),
        ({"scope": "some"}, "allowed: weight, layer, all"),
        ({"step": -1}, "expected 0 or more"),
        ({"scale": math.inf}, "scale=inf"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(**options)


@pytest.mark.parametrize(
    ("options", "message"), [({"layers": ["x*"]}, "no trainable weight"), ({"bit": 32}, "bits 0 to 31")]
)
def test_what_the_network_has_not_is_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        train(Noting(), [Perturbation("bit", **options)])


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": -1, "max_epochs": 1}])
def test_a_step_that_training_does_not_reach_is_said_when_it_starts(length):
    with pytest.warns(UserWarning, match="perturbation step=4 is never reached: training goes from step 0 to 4"):
        train(Noting(), [Perturbation("bit", step=4)], **length)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "perturbation step")
        train(Noting(), [Perturbation("bit", step=3)], **length)
        train(Noting(), [Perturbation(step=4)], **length)
