import random
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from symbreak.callbacks.functional import find_clones, find_units
from symbreak.lightning_modules import TransformerLM, initialize


def vit():
    return VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32)


def language_model():
    return TransformerLM(num_classes=20, context=16, depth=2, width=32, num_heads=4, hidden=64)


def mixture():
    return TransformerLM(num_classes=20, context=16, depth=2, width=32, num_heads=4, hidden=64, experts=4)


NETWORKS = [resnet18, vit, language_model, mixture]


def copy_rows(module, names, source, target, heads=1, thirds=1):
    with torch.no_grad():
        for name in names:
            tensor = module.get_parameter(name)
            rows = tensor.view(thirds, heads, -1) if heads > 1 else tensor.view(1, len(tensor), -1)
            rows[:, target] = rows[:, source]


def copy_columns(module, name, source, target, heads=1):
    with torch.no_grad():
        weight = module.get_parameter(name)
        columns = weight.view(len(weight), heads, -1) if heads > 1 else weight
        columns[:, target] = columns[:, source]


def plant(module, kind, pair, full):
    """Make two units of a kind copies at a place that is written out here; return the layer's name."""
    source, target = pair
    if kind == "channels":
        place = "layer2.1"
        copy_rows(module, [f"{place}.conv1.weight", f"{place}.bn1.weight", f"{place}.bn1.bias"], source, target)
        reader, name, heads = f"{place}.conv2.weight", f"{place}.conv1", 1
    elif kind == "neurons" and isinstance(module, VisionTransformer):
        place = "encoder.layers.encoder_layer_1.mlp"
        copy_rows(module, [f"{place}.0.weight", f"{place}.0.bias"], source, target)
        reader, name, heads = f"{place}.3.weight", f"{place}.0", 1
    elif kind == "neurons":
        place = "blocks.1.feed_forward"
        copy_rows(module, [f"{place}.0.weight", f"{place}.0.bias"], source, target)
        reader, name, heads = f"{place}.3.weight", f"{place}.0", 1
    elif kind == "heads" and isinstance(module, VisionTransformer):
        name, heads = "encoder.layers.encoder_layer_0.self_attention", 4
        copy_rows(module, [f"{name}.in_proj_weight", f"{name}.in_proj_bias"], source, target, heads, 3)
        reader = f"{name}.out_proj.weight"
    elif kind == "heads":
        name, heads = "blocks.0.attention", 4
        copy_rows(module, [f"{name}.{p}_proj.{k}" for p in "qkv" for k in ("weight", "bias")], source, target, heads)
        reader = f"{name}.out_proj.weight"
    else:
        name = "blocks.1.feed_forward"
        experts: Any = module.get_submodule(f"{name}.experts")
        experts[target].load_state_dict(experts[source].state_dict())
        if full:
            copy_rows(module, [f"{name}.router.weight"], source, target)
        return name
    if full:
        copy_columns(module, reader, source, target, heads)
    return name


CASES = [
    (resnet18, "channels"),
    (vit, "neurons"),
    (vit, "heads"),
    (language_model, "neurons"),
    (language_model, "heads"),
    (mixture, "experts"),
    (mixture, "heads"),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_with_random_weights_have_no_clones_whatever_their_biases(network):
    torch.manual_seed(0)
    module = network()
    assert find_units(module)
    assert find_clones(module) == []


def test_he_networks_have_no_clones():
    for module in (resnet18(), vit()):
        initialize(module, "he")
        assert find_clones(module) == []


@pytest.mark.parametrize(("network", "kind"), CASES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_group_and_no_other_is_found(network, kind, full, seed):
    torch.manual_seed(seed)
    module = network()
    limit = 4 if kind in ("heads", "experts") else 32
    pair = sorted(random.Random(seed).sample(range(limit), 2))
    name = plant(module, kind, pair, full)
    (group,) = find_clones(module)
    assert (group.name, group.kind, group.members, group.symmetric) == (name, kind, tuple(pair), full)
    expected = "router" if kind == "experts" else "outgoing weights"
    assert (expected in group.verdict) is not full


def test_channels_of_a_residual_stream_are_copies_only_if_every_layer_that_writes_to_it_agrees():
    torch.manual_seed(0)
    module = resnet18()
    writers = [name for name, _ in module.named_parameters() if name in ("conv1.weight", "bn1.weight", "bn1.bias")]
    for block in ("layer1.0", "layer1.1"):
        writers += [f"{block}.{name}" for name in ("conv2.weight", "bn2.weight", "bn2.bias")]
    copy_rows(module, writers[:-3], 3, 9)
    assert find_clones(module) == []
    copy_rows(module, writers[-3:], 3, 9)
    assert [(group.members, group.symmetric) for group in find_clones(module)] == [((3, 9), False)]


def test_near_copies_need_a_tolerance():
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    copy_rows(module, ["0.weight", "0.bias"], 1, 4)
    with torch.no_grad():
        module[0].weight[4, 0] += 1e-4
    assert find_clones(module) == []
    assert [group.members for group in find_clones(module, tolerance=1e-3)] == [(1, 4)]
    with pytest.raises(ValueError, match="at least 0"):
        find_clones(module, tolerance=-1)


def symmetric_pair(equal_outgoing=True) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    copy_rows(module, ["0.weight", "0.bias"], 2, 11)
    if equal_outgoing:
        copy_columns(module, "2.weight", 2, 11)
    return module


def update(module, optimizer):
    optimizer.zero_grad()
    module(torch.randn(32, 8)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fully_symmetric_pair_keeps_equal_bits_for_200_steps_and_another_separates_at_once(kind):
    module = symmetric_pair()
    optimizer = kind(module.parameters(), lr=0.01)
    start = module[0].weight.clone()
    for _ in range(200):
        update(module, optimizer)
    assert torch.equal(module[0].weight[2], module[0].weight[11])
    assert not torch.equal(module[0].weight, start)
    (group,) = find_clones(module, optimizer)
    assert (group.members, group.verdict) == ((2, 11), "nothing but arithmetic or added noise")
    unequal = symmetric_pair(equal_outgoing=False)
    update(unequal, kind(unequal.parameters(), lr=0.01))
    assert not torch.equal(unequal[0].weight[2], unequal[0].weight[11])


def test_different_momentum_and_dropout_are_named_as_what_separates():
    module: Any = nn.Sequential(*symmetric_pair(), nn.Dropout(0.1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    update(module, optimizer)
    assert [group.verdict for group in find_clones(module, optimizer) if group.members == (2, 11)] == ["dropout"]
    optimizer.state[module[0].weight]["momentum_buffer"][2] += 1
    (group,) = find_clones(module, optimizer)
    assert group.verdict == "optimizer state, dropout"


def test_dropout_separates_heads_but_not_the_ranks_of_an_adapter():
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": 20, "context": 16, "depth": 1, "width": 32, "dropout": 0.1}
    verdicts = {
        group.kind: group.verdict
        for module in (
            TransformerLM(**options, heads="symmetric"),
            TransformerLM(**options, adapter_rank=2, adapter_rows="identical"),
        )
        for group in find_clones(module)
    }
    assert verdicts == {"heads": "dropout", "ranks": "nothing but arithmetic or added noise"}


class Forward(nn.Module):
    """Two layers of eight units, and a function from them and the input to the output."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        self.a, self.b = layers.pop("a", nn.Linear(8, 8)), layers.pop("b", nn.Linear(8, 4))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.register_buffer("scale", torch.ones(8))
        self.plain = torch.ones(8)

    def forward(self, x):
        return self.function(self, x)


def shuffled(m, x):
    y = m.a(x)
    n, c, h, w = y.shape
    return m.b(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def twice(m, x):
    return m.b(torch.relu(m.a(torch.relu(m.a(x)))))


UNEQUAL = {
    "flip": Forward(lambda m, x: m.b(m.a(x).flip(-1))),
    "cumsum": Forward(lambda m, x: m.b(torch.cumsum(m.a(x), -1))),
    "shuffle": Forward(shuffled, a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 4, 1)),
    "channel shuffle": nn.Sequential(nn.Conv2d(4, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 4, 1)),
    "neighbours": nn.Sequential(nn.Conv2d(4, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 4, 1)),
    "constant": Forward(lambda m, x: m.b(m.a(x) + torch.arange(8.0))),
    "plain tensor": Forward(lambda m, x: m.b(m.a(x) * m.plain)),
}


@pytest.mark.parametrize("module", UNEQUAL.values(), ids=UNEQUAL)
def test_units_that_are_not_treated_alike_are_no_clones_and_the_module_is_unchanged(module):
    before = {name: set(vars(each)) for name, each in module.named_modules()}
    first, last = (each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d))
    with torch.no_grad():
        first.weight[2], first.get_parameter("bias")[2] = first.weight[1], first.get_parameter("bias")[1]
        last.weight[:, 2] = last.weight[:, 1]
    assert find_clones(module) == []
    assert {name: set(vars(each)) for name, each in module.named_modules()} == before


def test_a_layer_that_is_applied_twice_is_one_set_of_units_read_by_all():
    torch.manual_seed(0)
    module = Forward(twice)
    copy_rows(module, ["a.weight", "a.bias"], 1, 2)
    copy_columns(module, "b.weight", 1, 2)
    (group,) = find_clones(module)
    assert (group.members, group.symmetric) == ((1, 2), False)
    copy_columns(module, "a.weight", 1, 2)
    (group,) = find_clones(module)
    assert (group.members, group.symmetric) == ((1, 2), True)


def test_a_gated_feed_forward_block_is_no_adapter():
    torch.manual_seed(0)
    layers = {"gate": nn.Linear(8, 16), "up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}
    module = Forward(lambda m, x: m.down(torch.sigmoid(m.gate(x)) * m.up(x)), **layers)
    copy_rows(module, ["gate.weight", "gate.bias"], 3, 5)
    assert find_clones(module) == []
    copy_rows(module, ["up.weight", "up.bias"], 3, 5)
    assert [(group.kind, group.members, group.symmetric) for group in find_clones(module)] == [
        ("neurons", (3, 5), False)
    ]


@pytest.mark.parametrize(("heads", "width"), [(4, 4), (3, 8)])
def test_heads_that_share_keys_or_do_not_divide_the_width_are_left_out(heads, width):
    sizes = {"q_proj": 8, "k_proj": width, "v_proj": width, "out_proj": 8}
    attention = Forward(
        lambda m, x: m.out_proj(m.q_proj(x) + m.k_proj(x).tile(2) + m.v_proj(x).tile(2)),
        **{name: nn.Linear(8, size) for name, size in sizes.items()},
    )
    attention.num_heads = heads
    assert find_clones(nn.Sequential(attention, nn.Linear(8, 4))) == []
    assert "heads" not in {units.kind for units in find_units(attention)}


def test_an_adapter_inside_its_linear_map_has_ranks_and_the_neurons_of_the_map():
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    module[0].lora_A, module[0].lora_B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(6, 2))
    assert {(units.kind, units.count) for units in find_units(module)} == {("ranks", 2), ("neurons", 6)}
    assert find_clones(module) == []


def test_units_whose_use_cannot_be_followed_are_left_out():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.first(x)) if x.sum() > 0 else self.first(x)

    assert find_units(Strange()) == []
