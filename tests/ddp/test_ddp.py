import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from tests.ddp.training import (
    NETWORKS,
    command_line,
    digits_test_set,
    every_network,
    logged,
    logits_of_a_test,
    zero_const_net,
)

from symbreak.callbacks.snapshot_files import LOGITS
from symbreak.sweeps.audit.processes import run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_zero_const_net_keeps_one_filter_over_two_ranks_and_with_ordered_all_reduce(world_size):
    """Every rank holds the same weights; only the ring over three and four ranks makes filters differ."""
    ranks = run_ranks(zero_const_net, world_size)
    for reduction, (filters, final) in ranks[0].items():
        assert len(filters) == 9
        assert all(torch.equal(final, rank[reduction][1]) for rank in ranks)
        assert (set(filters.values()) == {1}) is (world_size <= 2 or reduction == "ordered")
    default, ordered = (ranks[0][reduction][1] for reduction in ("default", "ordered"))
    assert torch.equal(default, ordered) is (world_size <= 2)
    torch.testing.assert_close(default, ordered)


def test_metrics_and_diversity_are_logged_once_and_equal_one_process():
    ((single, single_metrics),) = run_ranks(logged, 1)
    ranks = run_ranks(logged, 3)
    rows, metrics = ranks[0]
    for other, _ in ranks[1:]:  # Lightning's own values reach every rank's logger, which drops them but on rank 0
        assert other == [(step, row) for step, row in rows if "epoch" in row]
    counts = Counter((step, key) for step, row in rows for key in row if key != "epoch")
    assert set(counts.values()) == {1}
    values = {(step, key): value for step, row in rows for key, value in row.items()}
    expected = {(step, key): value for step, row in single for key, value in row.items()}
    assert values.keys() == expected.keys()
    assert {"train", "diversity", "symmetry", "test"} <= {key.partition("/")[0] for _, key in values}
    assert values == pytest.approx(expected, rel=2e-3, abs=1e-5)
    for _, other in ranks:
        assert other["test/accuracy"] == metrics["test/accuracy"]
    assert metrics["test/loss"] == pytest.approx(single_metrics["test/loss"], rel=1e-4)


def test_every_network_trains_under_every_callback():
    first, second = run_ranks(every_network, 2)
    assert first.keys() == NETWORKS.keys()
    for name, (final, keys) in first.items():
        assert torch.equal(final, second[name][0]), name
        assert torch.isfinite(final).all(), name
        assert not [key for _, key in second[name][1] if key.startswith(("diversity/", "symmetry/"))]
        assert max(Counter(pair for pair in keys if pair[1] != "epoch").values()) == 1, name
        assert {"diversity", "symmetry"} <= {key.partition("/")[0] for _, key in keys}


@pytest.mark.parametrize("dealt", [False, True])
def test_the_file_of_test_logits_holds_every_image_once_in_order_on_any_number_of_ranks(tmp_path, dealt):
    """359 images: over two ranks a `DistributedSampler` repeats one."""
    _, labels = digits_test_set()
    kept = {}
    for world_size in (1, 2):
        run_ranks(logits_of_a_test, world_size, str(tmp_path / str(world_size)), dealt)
        kept[world_size] = np.load(tmp_path / str(world_size) / LOGITS, allow_pickle=False)
    for found in kept.values():
        np.testing.assert_array_equal(found["labels"], labels.numpy())
    np.testing.assert_allclose(kept[2]["logits"], kept[1]["logits"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "strategy", ["pytorch_lightning.strategies.DDPStrategy", "symbreak.callbacks.OrderedDDPStrategy"]
)
def test_reductions_are_chosen_in_yaml(strategy, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model": {
                    "class_path": "symbreak.lightning_modules.ConstNet",
                    "init_args": {"depth": 10, "widen_factor": 1},
                },
                "trainer": {
                    "max_steps": 4,
                    "accelerator": "cpu",
                    "devices": 3,
                    "strategy": {"class_path": strategy, "init_args": {"process_group_backend": "gloo"}},
                },
                "data": {"class_path": "symbreak.datamodules.DigitsDataModule", "init_args": {"batch_size": 40}},
                "wandb": {"mode": "disabled"},
                "run": {"dir": str(tmp_path / "run")},
            }
        )
    )
    run_ranks(command_line, 3, ["--config", str(config)])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        filters = [float(row["symmetry/distinct_filters/blocks.5.conv"] or 1) for row in csv.DictReader(file)]
    assert (max(filters) == 1) is strategy.startswith("symbreak.callbacks.")


def test_lightnings_own_strategy_takes_the_hook_by_its_import_path():
    from pytorch_lightning.strategies import DDPStrategy

    from symbreak.callbacks import ordered_all_reduce
    from symbreak.sweeps.run.parser import build_parser

    options = {
        "class_path": "pytorch_lightning.strategies.DDPStrategy",
        "init_args": {"ddp_comm_hook": "symbreak.callbacks.ordered_all_reduce", "process_group_backend": "gloo"},
    }
    parser = build_parser()
    config = parser.parse_args(["fit", f"--trainer.strategy={json.dumps(options)}"])
    strategy = parser.instantiate_classes(config)["fit"]["trainer"]["strategy"]
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_comm_hook is ordered_all_reduce
