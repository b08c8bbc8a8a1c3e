import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from symbreak.callbacks.layers import feature_layers, first_tensor, weight_layers
from symbreak.callbacks.weights import unmeasured


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x):
        return x + self.inner(x)


def holder(network):
    return nn.ModuleDict({"network": network})


def test_every_kind_of_weight_is_found_with_outputs_first():
    network = nn.ModuleDict({
        "c1": nn.Conv1d(4, 6, 3, groups=2),
        "c3": nn.Conv3d(2, 3, 2),
        "up": nn.ConvTranspose2d(4, 6, 3, groups=2),
        "linear": nn.Linear(5, 7),
        "norm": nn.BatchNorm1d(3),
        "same": nn.MultiheadAttention(8, 2),
        "cross": nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    })  # fmt: skip
    shapes = {layer.name: tuple(layer.weight().shape) for layer in weight_layers(network)}
    assert shapes == {
        "c1": (6, 2, 3),
        "c3": (3, 2, 2, 2, 2),
        "up": (6, 2, 3, 3),
        "linear": (7, 5),
        **{f"same.{p}_proj": (8, 8) for p in "qkv"},
        "same.out_proj": (8, 8),
        **{"cross.q_proj": (8, 8), "cross.k_proj": (8, 4), "cross.v_proj": (8, 6)},
        "cross.out_proj": (8, 8),
    }


def test_a_transposed_convolution_is_read_by_output_channel():
    up = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    (layer,) = weight_layers(nn.Sequential(up))
    with torch.no_grad():
        layer.weight()[4].zero_()
        up.weight[2:, 1].zero_()
        assert up(torch.randn(1, 4, 5, 5))[0, 4].abs().max() == 0
        assert layer.weight()[4].abs().max() == 0
        assert layer.weight().count_nonzero() == up.weight.count_nonzero()


def test_patterns_choose_by_name():
    network = nn.ModuleDict({"encoder": Block(), "head": nn.Linear(4, 2)})
    assert [layer.name for layer in weight_layers(network, include=["encoder.*"])] == [
        "encoder.inner.0",
        "encoder.inner.2",
    ]
    assert [layer.name for layer in weight_layers(network, exclude=["*.0", "head"])] == ["encoder.inner.2"]


def test_features_are_those_of_the_innermost_block():
    network = holder(nn.Sequential(nn.Linear(3, 4), Block(), nn.Sequential(Block()), nn.Linear(4, 2)))
    found = {layer.name: layer.weights for layer in feature_layers(network)}
    assert found == {
        "network.0": ("network.0",),
        "network.1": ("network.1.inner.0", "network.1.inner.2"),
        "network.2.0": ("network.2.0.inner.0", "network.2.0.inner.2"),
        "network.3": ("network.3",),
    }


def test_a_module_around_the_whole_network_is_no_block():
    found = [layer.name for layer in feature_layers(holder(resnet18()))]
    assert found == ["network.conv1", *(f"network.layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "network.fc"]


def test_an_attention_is_the_block_of_its_output_projection():
    network = holder(VisionTransformer(8, 4, 1, 2, 16, 32))
    kinds = {layer.name: (type(layer.module).__name__, layer.space) for layer in feature_layers(network)}
    layer = "network.encoder.layers.encoder_layer_0"
    assert kinds == {
        "network.conv_proj": ("Conv2d", 2),
        layer: ("EncoderBlock", 0),
        f"{layer}.self_attention": ("MultiheadAttention", 0),
        f"{layer}.mlp": ("MLPBlock", 0),
        "network.heads.head": ("Linear", 0),
    }


def test_the_axis_of_the_channels():
    (conv, linear) = feature_layers(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Linear(4, 5)))
    assert conv.channel_dim(torch.zeros(2, 3, 4, 4)) == 1
    assert conv.channel_dim(torch.zeros(2, 16, 3)) == -1
    assert linear.channel_dim(torch.zeros(2, 7, 7, 5)) == -1


def test_the_first_tensor_of_an_output():
    x = torch.zeros(2, 3)
    assert first_tensor((None, torch.zeros(2, 3, dtype=torch.int64), [x], x + 1)) is x
    assert first_tensor({"logits": x}) is x
    assert first_tensor(("text", torch.zeros(()))) is None


class Backbone(nn.Module):
    """A stem directly beside two blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Linear(3, 4), nn.ModuleList([Block(), Block()])


def test_a_stem_beside_blocks_has_features_of_its_own():
    network = nn.ModuleDict({"backbone": Backbone(), "head": nn.Linear(4, 2)})
    names = [layer.name for layer in feature_layers(network)]
    assert names == ["backbone.stem", "backbone.blocks.0", "backbone.blocks.1", "head"]


def test_a_tied_weight_is_listed_once_and_both_modules_are_watched():
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    network = nn.ModuleDict({"one": one, "other": other})
    assert [layer.name for layer in weight_layers(network)] == ["one"]
    assert [layer.name for layer in weight_layers(network, include=["other"])] == ["other"]
    assert [(layer.name, layer.measured) for layer in feature_layers(network)] == [("one", True), ("other", True)]


def test_the_projections_of_an_attention_are_not_tied():
    assert len(weight_layers(nn.MultiheadAttention(8, 2))) == 4


def test_empty_layers_are_left_out():
    network = nn.Sequential(nn.Linear(0, 5), nn.Linear(5, 0), nn.Linear(5, 2), nn.Linear(2, 2))
    assert [layer.name for layer in weight_layers(network)] == ["2", "3"]


def test_a_lazy_layer_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^1 \(LazyLinear\) has no weight yet: run one batch through the network"):
        weight_layers(nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(5)))


def test_a_flat_shard_is_refused_in_one_line():
    network = nn.Sequential(nn.Linear(3, 4))
    network[0].weight = nn.Parameter(torch.zeros(6))
    with pytest.raises(ValueError, match=r"weight of 0 \(Linear\) has shape \(6,\): flat shards"):
        weight_layers(network)


def test_a_pattern_that_matches_nothing_is_named():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"^include pattern 'encoder\.\*' matches no layer of Sequential: 0, 1$"):
        weight_layers(network, include=["0", "encoder.*"])


def test_wrappers_are_no_part_of_a_name():
    network = nn.ModuleDict({"b": checkpoint_wrapper(Block())})
    network["a"] = torch.compile(nn.Sequential(nn.Linear(3, 4)))  # pyright: ignore[reportArgumentType]
    assert [layer.name for layer in weight_layers(network)] == ["b.inner.0", "b.inner.2", "a.0"]
    assert [layer.name for layer in feature_layers(network)] == ["b", "a"]


REWRITTEN = {
    "pruned": lambda linear: prune.random_unstructured(linear, "weight", 0.5),
    "pruned twice": lambda linear: prune.l1_unstructured(prune.random_unstructured(linear, "weight", 0.3), "weight", 3),
    "old weight_norm": weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm in evaluation": lambda linear: spectral_norm(linear).eval(),
}


@pytest.mark.parametrize("kind", REWRITTEN)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_are_those_that_the_next_forward_pass_uses(kind):
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias=False)
    REWRITTEN[kind](linear)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.add_(torch.randn_like(parameter))
    (layer,) = weight_layers(nn.Sequential(linear))
    read = layer.weight().detach().clone()
    torch.testing.assert_close(linear(torch.eye(6)).T, read, rtol=1e-6, atol=1e-7)


def test_matrices_without_a_measure_are_named():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.scale = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(1, 5, 1))

    kinds = [nn.GRU(3, 4), nn.LSTM(3, 4), nn.Bilinear(2, 3, 4), nn.Embedding(5, 3), nn.BatchNorm1d(3), Raw()]
    network = nn.Sequential(nn.Linear(3, 4), *kinds, nn.MultiheadAttention(4, 2))
    assert unmeasured(network) == ["1 (GRU)", "2 (LSTM)", "3 (Bilinear)", "4 (Embedding)", "6.table"]


def test_a_deep_network_is_searched_once(monkeypatch):
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    calls = []
    monkeypatch.setattr(network, "named_modules", lambda: calls.append(1) or nn.Module.named_modules(network))
    assert len(feature_layers(network)) == 300
    assert len(calls) <= 2
