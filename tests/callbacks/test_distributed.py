import warnings
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning import seed_everything
from tests.callbacks.training import MemoryLogger
from tests.ddp.training import fit
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _world
from torch.distributed.tensor import Shard, distribute_tensor

from symbreak.callbacks import (
    Determinism,
    ExactResume,
    FeatureDiversity,
    OrderedDDPStrategy,
    RankTrajectory,
    SignalPropagation,
    SymmetryBreaking,
)
from symbreak.callbacks.signals import Signal, sum_over_ranks
from symbreak.callbacks.stacks import Samples
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.audit.processes import run_ranks


def propagated():
    """What is logged about signals and ranks, and how many steps were trained after symmetry broke."""
    seed_everything(1, verbose=False)
    module = ConstNet(depth=7, widen_factor=1, in_channels=1, norm="scalar", init="he")
    monitors = [
        SignalPropagation(every_n_steps=1, samples=None),
        RankTrajectory(),
        SymmetryBreaking(stop_after_break=2),
    ]
    trainer, logger = fit(module, [Determinism("strict"), *monitors], steps=6)
    return [row for row in logger.rows if "epoch" not in row[1]], trainer.global_step


def test_two_ranks_log_once_what_one_device_would_and_stop_together():
    (((single, steps),), (rows, first), (other, second)) = run_ranks(propagated, 1), *run_ranks(propagated, 2)
    assert other == []
    assert first == second == steps == 2
    values = [((step, key), value) for step, row in rows for key, value in row.items()]
    assert len(dict(values)) == len(values) > 50
    expected = {(step, key): value for step, row in single for key, value in row.items()}
    assert dict(values) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def added_up():
    """Four signals, updated by the ranks in opposite orders: one by rank 0 alone, one with inputs of two sizes."""
    rank = dist.get_rank()
    signals = {name: Signal() for name in ("everywhere", "here", "uneven", "also")}
    for name in ("everywhere", "also")[:: 1 - 2 * rank]:
        signals[name].add(Samples(torch.full((2 + rank, 2), 1.0 + rank + 2 * (name == "also")), 1))
    if rank == 0:
        signals["here"].add(Samples(torch.ones(2, 3), 1))
    signals["uneven"].add(Samples(torch.ones(2, 3 + rank), 1))
    signals["everywhere"].add_gradient(torch.full((2, 2), 1.0 + rank))
    if rank == 0:
        signals["also"].add_gradient(torch.ones(2, 2))
    found = sum_over_ranks(signals, 2, torch.device("cpu"))
    return {name: (each.inputs, [round(float(value), 6) for value in each.values()]) for name, each in found.items()}


def test_only_what_every_rank_has_updated_alike_is_added_up():
    """5 equal directions; squares 2 * 2 * 1 + 3 * 2 * 4 and 2 * 2 * 9 + 3 * 2 * 16; gradients 4 * 1 + 4 * 4."""
    expected = {"everywhere": (5, [5.0, 20**0.5, 28**0.5]), "also": (5, [5.0, 132**0.5])}
    rounded = {name: (inputs, [round(value, 6) for value in values]) for name, (inputs, values) in expected.items()}
    assert run_ranks(added_up, 2) == [rounded] * 2


def gathered():
    """What a measurement of sharded weights logs, on a trainer that knows nothing but its rank."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
    network = torch.nn.Sequential(*layers)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer, axis in zip(layers, (0, 1), strict=True):
        layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(axis)]))
    logger = MemoryLogger()
    zero = dist.get_rank() == 0
    trainer: Any = SimpleNamespace(global_step=4, is_global_zero=zero, world_size=2, loggers=[logger])
    for callback in (SymmetryBreaking(), RankTrajectory(), FeatureDiversity()):
        callback.setup(trainer, cast(Any, network), "fit")
        callback.on_fit_start(trainer, cast(Any, network))
        callback.on_train_end(trainer, cast(Any, network))
    return logger.rows


def test_sharded_weights_are_gathered_on_all_ranks_and_logged_by_one():
    (expected,), (rows, other) = run_ranks(gathered, 1), run_ranks(gathered, 2)
    assert other == []
    assert rows == expected
    assert rows[0][1]["symmetry/distinct_filters/0"] == 5


def ordered_strategy():
    """How DDP was called, and the process groups before and after a fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"static_graph": True, "gradient_as_bucket_view": True, "timeout": timedelta(seconds=77)}
        strategy = OrderedDDPStrategy(**options)
        module = ConstNet(depth=7, widen_factor=1, in_channels=1, init="he")
        before = len(_world.pg_map)
        fit(module, [ExactResume()], steps=2, strategy=strategy)
    deprecated = [str(each.message) for each in caught if "deprecated" in str(each.message)]
    return before == len(_world.pg_map), strategy._ddp_kwargs, strategy._timeout, deprecated


def test_the_ordered_strategy_passes_options_on_warns_of_nothing_and_leaves_no_group():
    for same_groups, options, timeout, deprecated in run_ranks(ordered_strategy, 2):
        assert same_groups
        assert options["static_graph"] is options["gradient_as_bucket_view"] is True
        assert timeout == timedelta(seconds=77)
        assert not [text for text in deprecated if "all_gather" in text]
