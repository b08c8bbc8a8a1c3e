import copy
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.lightning_modules import LowRank, MixtureOfExperts, tie_heads_, upcycle_, widen_
from symbreak.lightning_modules.transformer import CausalSelfAttention, feed_forward


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def convolutions():
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 16, 3))
    module(torch.randn(16, 3, 6, 6))
    return module.eval()


CASES = [
    (mlp, "0", (5, 6)),
    (convolutions, "0", (2, 3, 6, 6)),
    (convolutions, "3", (2, 3, 6, 6)),
]


@pytest.mark.parametrize("split", ["even", "uneven"])
@pytest.mark.parametrize(("network", "layer", "shape"), CASES)
def test_widening_keeps_the_function_and_makes_copies(network, layer, shape, split):
    module, x = network(), torch.randn(shape)
    before, units = module(x), module.get_submodule(layer).weight.shape[0]
    widen_(module, layer, 3, split)
    weight = module.get_submodule(layer).weight
    assert weight.shape[0] == 3 * units
    assert torch.equal(weight[:units], weight[units : 2 * units])
    torch.testing.assert_close(module(x), before, atol=1e-5, rtol=1e-5)
    reader = next(m for m in list(module)[int(layer) + 1 :] if isinstance(m, (nn.Linear, nn.Conv2d)))
    columns = reader.weight.unflatten(1, (3, units, -1))
    assert torch.allclose(columns[:, 0], columns[:, 1]) is (split == "even")


def test_noise_disturbs_the_copies():
    module, x = mlp(), torch.randn(5, 6)
    before = module(x)
    widen_(module, "0", 2, noise_scale=1e-3)
    assert not torch.equal(module[0].weight[:8], module[0].weight[8:])
    torch.testing.assert_close(module(x), before, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("layer", "factor", "message"),
    [
        ("0", 1, "factor=1: expected at least 2"),
        ("2", 2, "name of a Linear"),
        ("3", 2, "reaches exactly one"),
        ("9", 2, "'9'"),
    ],
)
def test_what_cannot_be_widened_is_refused(layer, factor, message):
    with pytest.raises(ValueError, match=message):
        widen_(mlp(), layer, factor)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_upcycling_keeps_the_function_for_any_number_of_chosen_experts(top_k):
    block: Any = feed_forward(8, 16, 0.0)
    x = torch.randn(2, 5, 8)
    mixture: Any = upcycle_(block, 4, top_k=top_k)
    torch.testing.assert_close(mixture(x), block(x))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_drop_upcycling_draws_a_share_of_the_hidden_units_anew(share):
    block: Any = feed_forward(8, 16, 0.0)
    mixture: Any = upcycle_(block, 3, reinitialize=share, top_k=1)
    drawn = set()
    for expert in mixture.experts:
        first, last = expert[0].weight != block[0].weight, expert[3].weight != block[3].weight
        rows = tuple(first.all(1).nonzero().flatten().tolist())
        assert len(rows) == 16 * share
        assert rows == tuple(last.all(0).nonzero().flatten().tolist())
        assert first.any(1).sum() == len(rows)
        drawn.add(rows)
    assert len(drawn) > 1 or share == 1


def test_tied_heads_give_equal_outputs():
    attention: Any = CausalSelfAttention(12, 3)
    tie_heads_(attention, outgoing=True)
    for name in ("q_proj", "k_proj", "v_proj"):
        parts = attention.get_submodule(name).get_parameter("weight").unflatten(0, (3, 4))
        assert torch.equal(parts[0], parts[2])
    columns = attention.out_proj.weight.unflatten(1, (3, 4))
    assert torch.equal(columns[:, 0], columns[:, 2])
    with pytest.raises(ValueError, match="Linear has no q_proj"):
        tie_heads_(nn.Linear(2, 2))


def test_adapters_start_as_asked_for_and_train_alone():
    base: Any = nn.Linear(6, 5)
    x = torch.randn(4, 6)
    before = base(x)
    zero, identical, independent = (
        LowRank(copy.deepcopy(base), 3, rows) for rows in ("zero", "identical", "independent")
    )
    assert torch.equal(zero(x), before)
    assert not torch.equal(independent(x), before)
    assert torch.equal(identical.down[0], identical.down[2])
    assert torch.equal(identical.up[:, 0], identical.up[:, 2])
    assert not torch.equal(independent.down[0], independent.down[2])
    torch.testing.assert_close(independent(x), x @ (base.weight + independent.up @ independent.down).T + base.bias)
    assert {name for name, p in zero.named_parameters() if p.requires_grad} == {"down", "up"}


def router_of(mixture, rows):
    with torch.no_grad():
        mixture.router.weight.copy_(rows)


@pytest.mark.parametrize(("equal_gates", "separated"), [(True, False), (False, True)])
def test_copied_experts_stay_equal_under_identical_gates_and_separate_at_once_under_others(equal_gates, separated):
    mixture: Any = upcycle_(feed_forward(8, 16, 0.0), 2, top_k=2)
    router_of(mixture, torch.randn(1, 8).expand(2, 8) if equal_gates else torch.randn(2, 8))
    optimizer = torch.optim.AdamW(mixture.parameters(), lr=0.01)
    for _ in range(1 if separated else 50):
        optimizer.zero_grad()
        mixture(torch.randn(4, 7, 8)).square().mean().backward()
        optimizer.step()
    first, second = (expert.get_parameter("0.weight") for expert in mixture.experts)
    assert torch.equal(first, second) is not separated


@pytest.mark.parametrize(("top_k", "separated"), [(4, False), (2, True)])
def test_under_equal_gates_copies_stay_equal_unless_only_some_are_chosen(top_k, separated):
    mixture: Any = upcycle_(feed_forward(8, 16, 0.0), 4, top_k=top_k, router="equal")
    optimizer = torch.optim.AdamW(mixture.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (mixture(torch.randn(4, 7, 8)).square().mean() + 0.01 * mixture.balance_loss).backward()
        optimizer.step()
    first, *others = (expert.get_parameter("0.weight") for expert in mixture.experts)
    assert all(torch.equal(first, each) for each in others) is not separated


def test_only_the_largest_gates_count_and_balance_is_1_where_tokens_are_spread_evenly():
    experts: Any = [nn.Linear(2, 2, bias=False) for _ in range(2)]
    mixture = MixtureOfExperts(experts, 2, top_k=1)
    router_of(mixture, torch.eye(2))
    x = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(mixture(x), torch.stack([experts[0](x[0]), experts[1](x[1])]))
    torch.testing.assert_close(mixture.balance_loss, torch.tensor(1.0))
    mixture(x[:1].expand(4, 2))
    torch.testing.assert_close(mixture.balance_loss, 2 * torch.tensor([3.0, 0.0]).softmax(0)[0])
    with pytest.raises(ValueError, match="top_k=3: expected between 1 and 2"):
        MixtureOfExperts(experts, 2, top_k=3)
    with pytest.raises(ValueError, match="router='zero'"):
        MixtureOfExperts(experts, 2, router="zero")  # pyright: ignore[reportArgumentType]


def indivisible() -> Any:
    module: Any = nn.Module()
    module.num_heads = 3
    module.q_proj, module.k_proj, module.v_proj, module.out_proj = (nn.Linear(8, 8) for _ in range(4))
    return module


@pytest.mark.parametrize(
    ("surgery", "message"),
    [
        (lambda net: widen_(net, "0", 2, noise_scale=-1), "noise_scale=-1: expected between 0 and 1e\\+06"),
        (lambda net: widen_(net.insert(1, nn.Softmax(-1)), "0", 2), "reaches exactly one"),
        (lambda net: tie_heads_(indivisible()), "8 rows: expected a multiple of num_heads=3"),
        (lambda net: LowRank(nn.Conv2d(3, 3, 1), 2), "Conv2d: expected a Linear"),  # pyright: ignore
    ],
)
def test_surgery_that_does_not_fit_is_refused_before_anything_is_changed(surgery, message):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=message):
        surgery(net)
    assert net[0].get_parameter("weight").shape == (4, 4)
