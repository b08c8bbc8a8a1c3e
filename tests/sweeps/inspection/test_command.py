import pickle
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.cli import main
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.checkpoints import read_weights
from symbreak.sweeps.inspection.command import inspect
from symbreak.sweeps.inspection.layers import copies, dead_filters, inspect_layer
from symbreak.sweeps.inspection.networks import make_network, weights_of


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def test_copies_and_dead_filters_are_named():
    weight = torch.randn(10, 4, 3, 3)
    weight[7], weight[2], weight[5] = weight[1], 3 * weight[1], weight[4] + 1e-4 * weight[3]
    weight[6] = 1e-9 * weight[6]
    layer = inspect_layer("conv", weight, 0.999)
    assert layer.copies == ((1, 2, 7), (4, 5))
    assert layer.dead == (6,)
    assert (layer.superfluous, layer.distinct_filters, layer.distinct_inputs) == (4, 9, 4)
    assert layer.numerical_rank == 6


def test_a_bitwise_copy_is_found_however_many_filters_there_are(monkeypatch):
    monkeypatch.setattr("symbreak.sweeps.inspection.layers.LARGEST", 3)
    weight = torch.randn(6, 5)
    weight[4], weight[3] = weight[2], 2 * weight[1]
    assert copies(weight, 0.999) == [(2, 4)]


def test_blocks_give_the_copies_that_all_pairs_give(monkeypatch):
    weight = torch.randn(40, 6)
    for copy, source in ((7, 3), (21, 3), (30, 19), (39, 19), (38, 2)):
        weight[copy] = 2 * weight[source] + 1e-3 * torch.randn(6)
    whole = copies(weight, 0.999)
    assert whole == [(2, 38), (3, 7, 21), (19, 30, 39)]
    monkeypatch.setattr("symbreak.sweeps.inspection.layers.BLOCK", 8)
    assert copies(weight, 0.999) == whole


def test_similar_filters_join_the_first_of_their_group_only():
    angles = torch.tensor([0.0, 0.3, 0.6, 0.9])
    weight = torch.stack((angles.cos(), angles.sin()), 1)
    assert copies(weight, 0.95) == [(0, 1), (2, 3)]


def test_zero_weights_are_dead_and_no_copies():
    weight = torch.zeros(3, 2, 3, 3)
    assert dead_filters(weight) == (0, 1, 2)
    layer = inspect_layer("conv", weight, 0.999)
    assert (layer.copies, layer.superfluous, layer.effective_rank, layer.forward) == ((), 3, 0, 1)


def test_a_lightning_checkpoint_is_read_with_weights_only():
    module = ConstNet(depth=7, widen_factor=1)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint("a.ckpt")
    weights, expected = read_weights(Path("a.ckpt")), weights_of(module)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"model_state_dict": s}])
def test_a_state_dict_is_read_wherever_it_is(tmp_path, nest):
    network = nn.ModuleDict({
        "conv": nn.Conv2d(3, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "same": nn.MultiheadAttention(8, 2),
        "cross": nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    })  # fmt: skip
    torch.save(nest(network.state_dict()), tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").keys() == weights_of(network).keys()


class Harmful:
    def __reduce__(self):
        return (open, ("harm.txt", "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"state_dict": {"a.weight": torch.zeros(2, 2)}, "extra": Harmful()}, tmp_path / "a.ckpt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Harmful()))
    for name in ("a.ckpt", "b.pkl"):
        with pytest.raises(UsageError, match="not unpickled here"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_checkpoint_gives_one_line(tmp_path, content, capsys):
    (tmp_path / "a.ckpt").write_bytes(content)
    for target in (
        ["a.ckpt"],
        ["torch.nn.Linear", "--arguments={in_features: 2, out_features: 3}", "--checkpoint=a.ckpt"],
    ):
        assert main(["inspect", *target]) == 2
        said = capsys.readouterr().err
        assert said.startswith("symbreak inspect: error: a.ckpt ")
        assert (said.count("\n"), "weights_only" in said) == (1, False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "neither a file nor an import path, such as torchvision.models.resnet18"),
        ("no/such.ckpt", "neither a file nor an import path"),
        ("torchvision.models.resnet19", "neither a file nor an import path"),
        ("torch.nn.Linear", "give what it needs in --arguments"),
        ("math.pi", "cannot be called"),
        ("torch.get_num_threads", "makes a int, not a network"),
    ],
)
def test_a_target_that_is_no_network_is_explained(target, message):
    with pytest.raises(UsageError, match=message):
        make_network(target, {})


def test_empty_files_and_odd_arguments_are_refused(tmp_path):
    torch.save({"a.bias": torch.zeros(3)}, tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(UsageError, match="holds no weight"):
        inspect("a.pt")
    with pytest.raises(UsageError, match="holds a list, not a state_dict"):
        inspect("b.pt")
    with pytest.raises(UsageError, match="similarity"):
        inspect("a.pt", similarity=1.5)


def test_the_command_prints_a_table_and_writes_a_page(tmp_path, capsys):
    arguments = '{"spec_norm": 1}'
    assert main(["inspect", "torch.nn.Linear", "--arguments", arguments]) == 2
    capsys.readouterr()
    assert (
        main(["inspect", "symbreak.lightning_modules.ConstNet", "--arguments", '{"depth": 7, "widen_factor": 1}']) == 0
    )
    out = capsys.readouterr().out
    assert "blocks.0.conv" in out
    assert "dead filters 0-15" in out
    page = (tmp_path / "runs" / "inspect-symbreak-lightning-modules-ConstNet.html").read_text()
    assert "1/16" in page
    assert "http" not in page.replace("http-equiv", "")


def test_hostile_names_are_escaped(tmp_path, capsys):
    name = "<script>alert(1)</script>[bold]"
    torch.save({f"{name}.weight": torch.randn(3, 4)}, tmp_path / "a.pt")
    page = inspect("a.pt", output=tmp_path / "page.html")
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    assert "[bold]" in "".join(capsys.readouterr().out.split())


def test_a_network_that_loads_a_checkpoint_has_layers_of_known_types(tmp_path, capsys):
    network = nn.ConvTranspose2d(4, 6, 3)
    with torch.no_grad():
        network.weight[:, 2] = 0
        network.weight[:, 5] = network.weight[:, 4]
    torch.save(network.state_dict(), tmp_path / "up.ckpt")
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    page = inspect("torch.nn.ConvTranspose2d", tmp_path / "a.html", arguments, tmp_path / "up.ckpt")
    assert "dead filters 2" in page.read_text()
    assert "filters 4, 5 are copies of one" in page.read_text()
    with pytest.raises(UsageError, match=r"does not fit the network: .*size mismatch for weight"):
        inspect("torch.nn.ConvTranspose2d", None, arguments | {"in_channels": 3}, tmp_path / "up.ckpt")
    with pytest.raises(UsageError, match="--checkpoint goes with an import path"):
        inspect(str(tmp_path / "up.ckpt"), checkpoint=tmp_path / "up.ckpt")


def test_filters_that_differ_in_a_bit_of_float64_are_no_copies_of_that_kind(monkeypatch):
    monkeypatch.setattr("symbreak.sweeps.inspection.layers.LARGEST", 1)
    weight = torch.ones(3, 4, dtype=torch.float64)
    weight[2, 3] += 1e-15
    assert copies(weight, 1.0) == [(0, 1)]


def test_an_earlier_page_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = [inspect("torch.nn.Linear", arguments={"in_features": 4, "out_features": n}) for n in (3, 5)]
    assert [page.name for page in pages] == ["inspect-torch-nn-Linear.html", "inspect-torch-nn-Linear-2.html"]
    assert "3x4" in pages[0].read_text()


def test_a_text_named_like_a_checkpoint_is_one_line(tmp_path):
    (tmp_path / "a.ckpt").write_text("hello")
    with pytest.raises(UsageError, match=r"a\.ckpt is not a file of torch\.save"):
        inspect(str(tmp_path / "a.ckpt"))
