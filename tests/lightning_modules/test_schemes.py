import math
from typing import Any, get_args

import pytest
import torch
import torchvision
from torch import nn

from symbreak.lightning_modules import MLP, ConstNet, ImportedNetwork, Init, LeakyNet, ResNet, initialize, zero_
from symbreak.lightning_modules import initialization as init

STRUCTURED = {
    "averaging": init.averaging_,
    "cyclic_identity": init.cyclic_identity_,
    "partial_identity": init.partial_identity_,
    "hadamard": init.hadamard_,
}


class Residual(nn.Module):
    """A square stem, two residual blocks without and one with a gate, a head; every layer type of a vision network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(6, 6, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(6, 12, 3, padding=1, groups=3), nn.Conv2d(12, 6, 5, padding=2)
        self.b1, self.b2 = nn.Conv2d(6, 4, 1), nn.ConvTranspose2d(4, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.scale = nn.Parameter(torch.full((), 0.5))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.norm(self.a2(torch.relu(self.a1(x))))
        x = x + self.scale * self.b2(torch.relu(self.b1(x)))
        return self.head(x.mean((2, 3)))


def table(module, scheme, **arguments):
    return {row.parameter: row for row in initialize(module, scheme, **arguments)}


@pytest.mark.parametrize("scheme", STRUCTURED)
def test_structured_schemes_entry_by_entry(scheme):
    network = Residual()
    rows = table(network, scheme)
    children: dict[str, Any] = dict(network.named_children())
    for name, layer in children.items():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name != "a2":
            parts = layer.weight.chunk(layer.groups if isinstance(layer, nn.Conv2d) else 1)
            for part in parts:
                assert part.equal(STRUCTURED[scheme](torch.empty(part.shape))), name
            assert rows[f"{name}.weight"].rule == scheme
        if layer.bias is not None:
            assert not layer.bias.any()
    for last in (network.a2, network.b2):
        assert not last.weight.any()
    assert rows["a2.weight"] == ("a2.weight", "constant 0", 0)
    assert network.norm.weight.equal(torch.ones(6))
    assert rows["scale"].rule == "unchanged"
    for name, parameter in network.named_parameters():
        assert rows[name].nonzeros == parameter.count_nonzero()
    assert set(rows) == {name for name, _ in network.named_parameters()}


def test_transposed_convolutions_count_outputs_first():
    layer: Any = nn.ConvTranspose2d(4, 6, 3, groups=2)
    initialize(layer, "hadamard")
    for group in layer.weight.chunk(2):
        assert group.transpose(0, 1).equal(init.hadamard_(torch.empty(3, 2, 3, 3)))
    initialize(layer, "orthogonal")
    rows = layer.weight[:2].transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(3))


def test_attention_is_initialised_by_projection():
    layer = nn.MultiheadAttention(6, 2)
    initialize(layer, "partial_identity")
    assert layer.in_proj_weight.equal(torch.eye(6).repeat(3, 1))
    assert layer.out_proj.weight.equal(torch.eye(6))
    assert not layer.in_proj_bias.any()


@pytest.mark.parametrize("scheme", ["he", "rezero", "skipinit"])
def test_he_spreads(scheme):
    network: Any = ResNet(8, "cifar", norm="scalar", width=16, init=scheme, num_classes=500)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan = layer.out_channels * layer.kernel_size[0] ** 2 if isinstance(layer, nn.Conv2d) else layer.in_features
            assert layer.weight.var().item() == pytest.approx(2 / fan, rel=6 * (2 / layer.weight.numel()) ** 0.5), name
    gate = {"he": 1.0, "rezero": 0.0, "skipinit": 3**-0.5}[scheme]
    assert [block.norm2[0].scale.item() for block in network.network.blocks] == pytest.approx([gate] * 3)


def test_rezero_takes_a_norm_for_a_gate():
    network = ResNet(18, init="rezero", in_channels=1)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.unique().tolist() == [0.0 if name.endswith("bn2") else 1.0]


@pytest.mark.parametrize(("depth", "layers"), [(18, 2), (50, 3)])
def test_fixup_scales_branches(depth, layers):
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    rows = table(network, "fixup")
    blocks = sum("conv1" in name for name in rows) - 1
    factor = blocks ** (-1 / (2 * layers - 2))
    middle = network.layer3[0].conv1.weight
    fan = middle.shape[0] * middle.shape[2] ** 2
    assert middle.std().item() == pytest.approx(factor * math.sqrt(2 / fan), rel=0.03)
    assert rows["layer3.0.conv1.weight"].rule == f"fixup, times {factor:.4g}"
    assert rows["layer3.0.downsample.0.weight"].rule == "fixup"
    assert rows[f"layer3.0.conv{layers}.weight"].nonzeros == 0
    assert rows["fc.weight"].nonzeros == 0


@pytest.mark.parametrize("scheme", ["orthogonal", "delta_orthogonal"])
def test_orthogonal_schemes_have_the_gain_of_relu(scheme):
    layer = nn.Conv2d(5, 8, 3)
    initialize(layer, scheme)
    assert layer.weight.square().sum().item() == pytest.approx(2 * (8 if scheme == "orthogonal" else 5), rel=1e-5)


def test_paper_and_code_scales_of_zero():
    code, paper = nn.Linear(3, 8), nn.Linear(3, 8)
    assert [row.nonzeros for row in zero_(code)] == [24, 0]
    zero_(paper, hadamard_scale="paper")
    torch.testing.assert_close(paper.weight, math.sqrt(2) * code.weight)


def test_default_leaves_everything():
    network = Residual()
    before = [p.clone() for p in network.parameters()]
    assert {row.rule for row in initialize(network, "default")} == {"unchanged"}
    assert all(p.equal(q) for p, q in zip(network.parameters(), before, strict=True))


def test_noise_on_all_weights_but_the_head():
    network = Residual()
    rows = table(network, "averaging", noise_scale=0.5)
    noisy = {name for name, row in rows.items() if row.rule.endswith(" + additive noise 0.5")}
    assert noisy == {f"{name}.weight" for name in ("stem", "a1", "a2", "b1", "b2")}
    assert network.a2.weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / (6 * 25)), rel=0.1)
    assert network.head.weight.equal(init.averaging_(torch.empty(3, 6)))


@pytest.mark.parametrize(
    ("network", "scheme", "message"),
    [
        (nn.Linear(3, 3), "ones", "init='ones': expected one of 'default', 'zero', 'he'"),
        (
            nn.Sequential(nn.Linear(3, 4)),
            "identity",
            "init 'identity' does not fit 0: .* 4 and 3: use cyclic_identity",
        ),
        (nn.Sequential(nn.Linear(3, 4)), "fixup", "init 'fixup' needs residual branches"),
        (nn.Sequential(nn.Linear(3, 4)), "rezero", "init 'rezero' needs residual branches"),
        (ConstNet(7, 1), "skipinit", r"init 'skipinit' needs a scale or a norm after blocks\.0\.conv"),
    ],
)
def test_schemes_that_do_not_fit(network, scheme, message):
    with pytest.raises(ValueError, match=message):
        initialize(network, scheme)


@pytest.mark.parametrize("arguments", [{"noise_scale": -1.0}, {"noise_mode": "mixed"}])
def test_bad_noise(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        initialize(nn.Linear(2, 2), "default", **arguments)


NETWORKS = {
    "const_net": lambda scheme: ConstNet(7, 1, 4, 1, init=scheme, noise_scale=0.1),
    "const_net_scalar": lambda scheme: ConstNet(7, 1, 4, 1, init=scheme, norm="scalar", noise_scale=0.1),
    "leaky_net": lambda scheme: LeakyNet(7, 1, 4, 1, init=scheme if scheme != "default" else "1iik", noise_scale=0.1),
    "resnet": lambda scheme: ResNet(8, "cifar", 4, 1, init=scheme, width=4),
    "resnet_scalar": lambda scheme: ResNet(8, "cifar", 4, 1, init=scheme, norm="scalar", width=4, checkpointing=True),
    "mlp": lambda scheme: MLP(4, 96, 4, 1, 8, init=scheme),
    "imported": lambda scheme: ImportedNetwork(
        "torchvision.models.vision_transformer.VisionTransformer", 4, 1, VIT, init=scheme, noise_scale=0.1
    ),
}
VIT = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
VIT_RULES = {
    "zero": (init.averaging_, torch.zeros_like),
    "hadamard": (init.hadamard_, torch.zeros_like),
    "idinit": (init.padded_identity_, lambda weight: init.padded_identity_(weight, 1e-6)),
    "sinusoidal": (init.sinusoidal_, init.sinusoidal_),
}


@pytest.mark.parametrize("scheme", [*VIT_RULES, "he"])
def test_linear_maps_of_a_vision_transformer_entry_by_entry(scheme):
    path, arguments = "torchvision.models.vision_transformer.VisionTransformer", VIT | {"hidden_dim": 32, "mlp_dim": 48}
    model: Any = ImportedNetwork(path, 4, 1, arguments, init=scheme)
    block = model.network.encoder.layers.encoder_layer_0
    hidden = [*block.self_attention.in_proj_weight.chunk(3), block.mlp[0].weight]
    last = [block.self_attention.out_proj.weight, block.mlp[3].weight]
    for weight in (*hidden, *last):
        if scheme == "he":
            assert weight.std().item() == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.1)
            continue
        expected = VIT_RULES[scheme][any(weight is each for each in last)](torch.empty(weight.shape))
        torch.testing.assert_close(weight.detach(), expected, atol=1e-5 if scheme == "idinit" else 0, rtol=0)
    if scheme == "idinit":
        assert all(weight.max().item() == pytest.approx(1e-6) for weight in last)
    head = model.network.heads.head.weight
    assert bool(head.any()) is (scheme != "zero")
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 4)


UNFIT = {
    ("const_net", "rezero"),
    ("const_net", "skipinit"),
    ("imported", "rezero"),
    ("imported", "skipinit"),
    *((network, scheme) for network in ("leaky_net", "mlp") for scheme in ("fixup", "rezero", "skipinit")),
    *((network, "identity") for network in NETWORKS),
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_under_every_scheme(name, precision, loader, monkeypatch):
    dtype = torch.float64 if precision == "64-true" else torch.float32
    batch = next(iter(loader))
    images, targets = batch[0].to(dtype), batch[1]
    trained = set()
    for scheme in get_args(Init):
        if (name, scheme) in UNFIT:
            with pytest.raises(ValueError, match=f"init '{scheme}'"):
                NETWORKS[name](scheme)
            continue
        network = NETWORKS[name](scheme).to(dtype)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = network.training_step((images, targets))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss.isfinite(), scheme
        assert all(parameter.isfinite().all() for parameter in network.parameters()), scheme
        trained.add(scheme)
    assert len(trained) >= 8
