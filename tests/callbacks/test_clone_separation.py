import math
import re

import pytest
import torch
from tests.callbacks.training import Wrapped, train
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from symbreak.callbacks import CloneSeparation, Determinism, SymmetryTrace, functional
from symbreak.callbacks.clone_separation import distinct_members, group_asymmetry
from symbreak.lightning_modules import TransformerLM
from symbreak.lightning_modules.surgery import LowRank


def numbers():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 8, generator=generator)
    return DataLoader(TensorDataset(data, torch.randint(0, 4, (64,), generator=generator)), batch_size=16)


def network(symmetric):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        for row in (5, 11):
            module[0].get_parameter("weight")[row] = module[0].get_parameter("weight")[2]
            module[0].get_parameter("bias")[row] = module[0].get_parameter("bias")[2]
            if symmetric:
                module[2].get_parameter("weight")[:, row] = module[2].get_parameter("weight")[:, 2]
    return module


def test_symmetric_copies_never_separate_and_others_separate_after_one_step():
    for symmetric in (True, False):
        callback = CloneSeparation(every_n_steps=1)
        _, logger = train(Wrapped(network(symmetric)), [callback], steps=4, loader=numbers())
        distinct = logger.series("clones/distinct_members/network.0")
        assert list(distinct.values()) == ([1] * 5 if symmetric else [1, 3, 3, 3, 3])
        assert logger.series("clones/asymmetry/network.0")[0] == 0
        assert (logger.series("clones/output_asymmetry/network.0")[3] == 0) is symmetric
        assert logger.series("clones/steps_to_separation") == ({} if symmetric else {1: 1})


def test_every_documented_key_is_logged_and_no_other():
    _, logger = train(Wrapped(network(False)), [CloneSeparation(every_n_steps=1)], loader=numbers())
    documented = set(re.findall(r"``(clones/[a-z_]+(?:/<layer>)?)``", CloneSeparation.__doc__ or ""))
    assert {re.sub("/network.*", "/<layer>", key) for key in logger.keys("clones")} == documented


def test_groups_are_searched_after_a_surgery():
    tokens = torch.arange(4 * 65).remainder(11).view(4, 65).repeat(8, 1)
    loader = DataLoader(TensorDataset(tokens[:, :8], tokens[:, 1:9]), batch_size=8)
    torch.manual_seed(0)
    options = {"num_classes": 11, "context": 8, "depth": 1, "width": 16, "num_heads": 2, "hidden": 32}
    model = TransformerLM(**options, grow="upcycle", grow_step=2)  # pyright: ignore[reportArgumentType]
    callback = CloneSeparation(every_n_steps=1, start_step=2)
    _, logger = train(model, [callback], steps=6, loader=loader)
    assert min(logger.series("clones/distinct_members")) == 2
    assert callback.state_dict()["found_step"] == 2
    assert callback.separation == {"blocks.0.feed_forward": 1}


def test_heads_and_experts_are_measured_too():
    tokens = torch.arange(4 * 65).remainder(11).view(4, 65).repeat(8, 1)
    loader = DataLoader(TensorDataset(tokens[:, :8], tokens[:, 1:9]), batch_size=8)
    torch.manual_seed(0)
    model = TransformerLM(11, 8, 1, 16, 2, 32, heads="equal", experts=2, top_k=2)
    experts = model.get_submodule("blocks.0.feed_forward.experts")
    experts.get_submodule("1").load_state_dict(experts.get_submodule("0").state_dict())
    callback = CloneSeparation(every_n_steps=1)
    _, logger = train(model, [callback], steps=3, loader=loader)
    for layer in ("blocks.0.attention", "blocks.0.feed_forward"):
        assert logger.series(f"clones/distinct_members/{layer}") == {0: 1, 1: 2, 2: 2, 3: 2}
    assert callback.separation == {"blocks.0.attention": 1, "blocks.0.feed_forward": 1}


def test_ranks_and_neurons_of_an_adapted_layer_are_kept_apart_and_buffers_are_compared():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = LowRank(nn.Linear(8, 8), 3, "identical"), nn.Linear(8, 4)
            self.register_buffer("scale", torch.ones(8))

        def forward(self, x):
            return self.head(self.layer(x) * self.scale)

    torch.manual_seed(0)
    module = Scaled()
    with torch.no_grad():
        for tensor in (module.layer.base.weight, module.layer.base.bias, module.layer.up):
            tensor[2] = tensor[1]
    callback = CloneSeparation(every_n_steps=1)
    _, logger = train(Wrapped(module), [callback], steps=3, loader=numbers())
    assert logger.series("clones/distinct_members/network.layer") == dict.fromkeys(range(4), 1)
    assert logger.series("clones/distinct_members/network.layer.neurons") == {0: 1, 1: 2, 2: 2, 3: 2}
    assert callback.separation == {"network.layer.neurons": 1}


def test_only_the_given_kinds_are_measured_and_a_large_tolerance_groups_all_their_units():
    tokens = torch.arange(4 * 65).remainder(11).view(4, 65).repeat(8, 1)
    loader = DataLoader(TensorDataset(tokens[:, :8], tokens[:, 1:9]), batch_size=8)
    torch.manual_seed(0)
    callback = CloneSeparation(every_n_steps=1, tolerance=10, kinds=["heads"])
    _, logger = train(TransformerLM(11, 8, 2, 16, 4, 32), [callback], steps=2, loader=loader)
    layers = {key.rsplit("/", 1)[1] for key in logger.keys("clones/distinct_members")}
    assert layers == {"blocks.0.attention", "blocks.1.attention"}
    assert logger.series("clones/distinct_members") == {0: 4, 1: 4, 2: 4}
    assert min(logger.series("clones/asymmetry").values()) > 0.5


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_copied_experts_separate_at_the_step_that_the_trace_names(noise):
    tokens = torch.arange(4 * 65).remainder(11).view(4, 65).repeat(8, 1)
    loader = DataLoader(TensorDataset(tokens[:, :8], tokens[:, 1:9]), batch_size=8)
    torch.manual_seed(0)
    model = TransformerLM(11, 8, 1, 16, 2, 32, experts=2, top_k=2, router="equal", router_noise=noise)
    experts = model.get_submodule("blocks.0.feed_forward.experts")
    experts.get_submodule("1").load_state_dict(experts.get_submodule("0").state_dict())
    separation, trace = CloneSeparation(every_n_steps=1, kinds=["experts"]), SymmetryTrace()
    train(model, [Determinism("strict"), separation, trace], steps=6, loader=loader)
    if not noise:
        assert (separation.separation, trace.found) == ({}, None)
        return
    assert trace.found is not None
    assert trace.found.trace.cause is not None
    assert trace.found.trace.cause.kind == "randomness"
    assert "blocks.0.feed_forward.router.weight" in trace.found.weights
    assert separation.separation == {"blocks.0.feed_forward": trace.found.step} == {"blocks.0.feed_forward": 1}


def test_nothing_is_logged_where_nothing_is_equal():
    _, logger = train(Wrapped(nn.Sequential(nn.Linear(8, 4))), [CloneSeparation()], loader=numbers())
    assert not logger.keys("clones")


def test_measures_of_groups_equal_those_of_each_group():
    torch.manual_seed(0)
    rows = torch.randn(9, 5)
    rows[3], rows[7] = rows[1], rows[1]
    groups = [[1, 3, 7], [0, 2], [4, 5]]
    assert distinct_members(rows, groups) == 5
    one = group_asymmetry(rows, [[0, 2]])
    torch.testing.assert_close(one, functional.asymmetry(rows[[0, 2]]), check_dtype=False)
    assert group_asymmetry(rows, [[1, 3, 7]]) == 0
    assert math.isfinite(group_asymmetry(torch.zeros(4, 2), [[0, 1]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"start_step": -1}, "at least 0"), ({"tolerance": -1.0}, "at least 0"), ({"kinds": ["rows"]}, "rows.*'heads'")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CloneSeparation(**arguments)


def test_differences_of_float64_are_not_lost():
    rows = torch.ones(2, 3, dtype=torch.float64)
    rows[1, 0] += 1e-12
    assert 0 < group_asymmetry(rows, [[0, 1]]) < 1e-11
