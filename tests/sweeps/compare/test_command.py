import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from symbreak.sweeps.compare.barrier import barrier
from symbreak.sweeps.compare.channels import channel_groups
from symbreak.sweeps.compare.command import compare
from symbreak.sweeps.compare.comparison import load_last, spread
from symbreak.sweeps.compare.matching import match, permuted
from symbreak.sweeps.compare.members import read_members
from symbreak.sweeps.compare.network import make_probe
from symbreak.sweeps.compare.weights import read_state, relative_distances
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.folder import read_json


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    page = compare([str(path) for path in runs.values()], folder / "c.html", folder / "c.json", examined=10, images=64)
    pairs = json.loads((folder / "c.json").read_text())
    return {(pair["first"], pair["second"]): pair for pair in pairs}, page.read_text()


def test_equal_seeds_give_distance_and_churn_exactly_zero_at_every_snapshot(compared):
    pair = compared[0]["base", "again"]
    assert len(pair["by_step"]) > 8
    assert set(pair["by_step"].values()) == {0}
    assert pair["distance"] == pair["matched"] == pair["churn"] == pair["barrier"] == pair["matched_barrier"] == 0
    assert pair["cka"] == pytest.approx(1)
    assert pair["differs_from"] is None


def test_two_runs_with_one_bit_changed_alike_are_equal(compared):
    pair = compared[0]["bit", "bit_again"]
    assert set(pair["by_step"].values()) == {0}
    assert pair["churn"] == 0


def test_one_bit_grows_exponentially_from_its_step(compared, runs):
    pair = compared[0]["base", "bit"]
    by_step = {int(step): distance for step, distance in pair["by_step"].items()}
    change = read_json(runs["bit"] / "summary.json")["perturbation/distance"]
    state = read_state(runs["base"] / "snapshots" / "step-00000003.pt")
    names = make_probe(runs["base"], 4).parameters
    norm = math.sqrt(sum(float(state[name].double().square().sum()) for name in names))
    assert all(distance == 0 for step, distance in by_step.items() if step < 3)
    assert by_step[3] == pytest.approx(change / norm, rel=1e-4)
    assert by_step[3] < 1e-7
    assert by_step[60] > 10 * by_step[3]
    assert pair["growth_rate"] > 0.02
    assert 0.5 < pair["growth_r2"] <= 1


def test_another_order_separates_at_once(compared):
    pair = compared[0]["base", "order"]
    by_step = {int(step): distance for step, distance in pair["by_step"].items()}
    assert by_step[0] == 0
    assert by_step[1] > 1e-4
    assert 0 <= pair["matched"] <= pair["distance"]
    assert pair["differs_from"] in by_step
    assert 0 < pair["churn"] < pair["independent_churn"]
    assert pair["churn_interval"][0] <= pair["churn"] <= pair["churn_interval"][1]


def test_the_probe_repeats_the_runs_test(runs):
    probe = make_probe(runs["base"], 10_000)
    state = torch.load(runs["base"] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert probe.loss(state) == pytest.approx(read_json(runs["base"] / "summary.json")["test/loss"], rel=1e-4)


def test_swapped_channels_of_a_trained_network_are_matched_without_a_barrier(runs):
    probe, state = make_probe(runs["base"], 256), load_last(runs["base"])
    groups = channel_groups(probe.network)
    generator = torch.Generator().manual_seed(0)
    other = permuted(state, groups, [torch.randperm(group.size, generator=generator) for group in groups])
    found = permuted(other, groups, match(state, other, groups))
    swapped, matched = relative_distances([state, other, found], [(0, 1), (0, 2)], probe.parameters).values()
    assert swapped > 0.5
    assert matched == 0
    assert barrier(probe.loss, state, other) > 0.1
    assert barrier(probe.loss, state, found) <= 1e-6


def test_the_page_holds_pairs_figures_and_meanings(compared):
    page = compared[1]
    assert page.count("<h2>") == 3
    assert len(re.findall(r"<figure ", page)) == 3
    assert "agreement beyond accuracy" in page


def test_examined_pairs_lie_within_and_between_arms_and_are_spread():
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    chosen = list(spread(pairs, lambda pair: pair[0] % 2 == pair[1] % 2, 4))
    assert len(set(chosen)) == 4
    assert sum(i % 2 == j % 2 for i, j in chosen) == 2
    assert set(spread(pairs, lambda pair: True, 4)) < set(pairs)
    assert len(list(spread(pairs, lambda pair: True, 4))) == 4
    assert list(spread(pairs, lambda pair: False, 0)) == []
    assert sorted(spread(pairs, lambda pair: pair == (0, 1), 100)) == pairs


def test_arms_are_those_of_the_report(runs):
    assert {member.name: member.arm for member in read_members(list(runs.values()))}["bit"] == "kind=bit, step=3"


@pytest.fixture
def copies(runs, tmp_path):
    return [Path(shutil.copytree(runs[name], tmp_path / name)) for name in ("base", "order", "bit")]


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "snapshots/step-00000060.pt", "snapshots/step-00000003.pt"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "objects"])
def test_a_run_with_an_unreadable_file_is_left_out_and_the_others_are_compared(copies, name, damage, tmp_path, capsys):
    if name.startswith("checkpoints"):
        for folder in copies:
            shutil.rmtree(folder / "snapshots")
    path = copies[1] / name
    whole = path.read_bytes()
    if damage == "objects":
        torch.save({"state_dict": {"a": torch.zeros(1)}, "folder": Path("x")}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    page = compare(list(map(str, copies)), tmp_path / "c.html", tmp_path / "c.json", examined=1, images=16)
    (pair,) = json.loads((tmp_path / "c.json").read_text())
    assert (pair["first"], pair["second"]) == ("base", "bit")
    assert pair["distance"] is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"left out of the comparison: order ({path} ")
    assert "weights_only" not in line
    assert "2 runs, 1 pairs, 1 left out" in page.read_text()
    assert f"<td>{path} " in page.read_text()


def test_with_one_readable_run_left_the_reason_is_said(copies, tmp_path):
    for folder in copies[1:]:
        (folder / "snapshots" / "step-00000060.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 run\(s\) left: at least two .*; order is left out: .*; bit is left out: "):
        compare(list(map(str, copies)), tmp_path / "c.html")


def test_one_run_or_a_bad_number_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="at least two"):
        compare([str(runs["base"])], tmp_path / "c.html")
    with pytest.raises(UsageError, match="images=2"):
        compare([str(runs["base"])], tmp_path / "c.html", images=2)
    with pytest.raises(UsageError, match="not a folder"):
        compare([str(tmp_path / "nowhere")], tmp_path / "c.html")
