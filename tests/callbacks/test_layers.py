import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from symbreak.callbacks.layers import feature_layers, first_tensor, weight_layers


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
