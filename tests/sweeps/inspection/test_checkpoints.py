import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from symbreak.sweeps.cli import main
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.inspection.checkpoints import StoredWeights, read_weights, shards
from symbreak.sweeps.inspection.command import inspect
from symbreak.sweeps.inspection.networks import clone_remark, stored_clones


@pytest.fixture
def state():
    torch.manual_seed(0)
    names = {"a.weight": (6, 4), "a.bias": (6,), "b.in_proj_weight": (12, 4), "c.weight": (3, 6)}
    found = {name: torch.randn(shape) for name, shape in names.items()}
    found["a.weight"][4] = found["a.weight"][1]
    return found | {"steps.weight": torch.zeros(2, 2, dtype=torch.int64)}


def shard(folder, state, suffix, save):
    files = {name: f"part-{index % 2}{suffix}" for index, name in enumerate(state)}
    for file in set(files.values()):
        save({name: state[name] for name in state if files[name] == file}, folder / file)
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return index


@pytest.mark.parametrize("kind", ["one", "safetensors", "torch"])
def test_every_kind_of_checkpoint_gives_the_weights_of_torch_save(tmp_path, state, kind):
    torch.save(state, tmp_path / "whole.pt")
    if kind == "one":
        path = tmp_path / "one.safetensors"
        save_file(state, path)
    else:
        suffix, save = (".safetensors", save_file) if kind == "safetensors" else (".bin", torch.save)
        path = shard(tmp_path, state, suffix, save)
    weights, expected = read_weights(path), read_weights(tmp_path / "whole.pt")
    assert isinstance(weights, StoredWeights)
    assert set(weights) == set(expected) == {"a", "b.q_proj", "b.k_proj", "b.v_proj", "c"}
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_rows_of_a_checkpoint_are_copies_only_if_their_biases_are_equal_too(tmp_path, state, suffix):
    state["b.in_proj_weight"][6] = state["b.in_proj_weight"][5]  # rows 2 and 1 of the keys
    state["b.in_proj_bias"] = torch.zeros(12)
    path = shard(tmp_path, state, suffix, save_file if suffix == ".safetensors" else torch.save)
    assert [(group.name, group.members) for group in stored_clones(read_weights(path))] == [("b.k_proj", (1, 2))]
    state["a.bias"][4] = state["a.bias"][1]
    state["b.in_proj_bias"][5] = 1
    again = shard(tmp_path, state, suffix, save_file if suffix == ".safetensors" else torch.save)
    (group,) = stored_clones(read_weights(again))
    assert (group.name, group.members, group.symmetric) == ("a", (1, 4), False)
    assert "rows 1, 4 are copies (equal incoming weights)" in clone_remark(group)


def test_near_copies_of_a_checkpoint_need_a_tolerance(tmp_path, state):
    state["a.weight"][4] = state["a.weight"][1] * (1 + 1e-4)
    state["a.bias"][4] = state["a.bias"][1]
    weights = read_weights(shard(tmp_path, state, ".safetensors", save_file))
    assert [group.name for group in stored_clones(weights)] == []
    assert [(group.name, group.members) for group in stored_clones(weights, 1e-3)] == [("a", (1, 4))]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the bytes read are counted by Linux alone")
def test_one_tensor_of_a_torch_shard_is_read_without_the_others(tmp_path):
    torch.save({"big.weight": torch.randn(2048, 2048), "small.weight": torch.randn(4, 4)}, tmp_path / "a.bin")
    (tmp_path / "a.index.json").write_text(json.dumps({"weight_map": {"big.weight": "a.bin", "small.weight": "a.bin"}}))
    before = bytes_read()
    assert read_weights(tmp_path / "a.index.json")["small"].sum().isfinite()
    assert bytes_read() - before < 4e6  # of 17e6


def bytes_read():
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_copies_in_a_sharded_checkpoint_are_named(tmp_path, state, capsys):
    page = inspect(str(shard(tmp_path, state, ".safetensors", save_file)), tmp_path / "page.html")
    assert "a: filters 1, 4 are copies of one" in capsys.readouterr().out
    assert "a: filters 1, 4 are copies of one" in page.read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"no tensors", "is not a safetensors file"),
        ("a.json", b"{}", "no weight_map"),
        ("a.json", b"\xff", "no weight_map"),
        ("a.json", b'{"weight_map": {"x.weight": "gone.safetensors"}}', "gone.safetensors"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_weights(path)


def test_a_shard_outside_of_the_folder_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"weight_map": {"x.weight": "../../secret.safetensors"}}))
    assert shards(path) == {"x.weight": tmp_path / "secret.safetensors"}


def test_interchangeable_units_of_a_network_are_named_with_what_separates_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = "{num_classes: 11, context: 8, depth: 1, width: 16, num_heads: 2, hidden: 24, heads: symmetric}"
    command = ["inspect", "symbreak.lightning_modules.TransformerLM", "--arguments", arguments, "--output", "a.html"]
    assert main(command) == 0
    line = "blocks.0.attention: heads 0, 1 are copies (fully symmetric)"
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in Path("a.html").read_text()
