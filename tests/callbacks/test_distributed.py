import pytest
import torch
import torch.distributed as dist
from pytorch_lightning import seed_everything
from tests.ddp.training import fit

from symbreak.callbacks import Determinism, InputCosine, MeanSquare, RankTrajectory, SignalPropagation, SymmetryBreaking
from symbreak.callbacks.signal_propagation import sum_over_ranks
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
    """Four metrics, updated by the ranks in opposite orders: one by rank 0 alone, one with inputs of two sizes."""
    rank = dist.get_rank()
    everywhere, here, uneven, also = metrics = [MeanSquare(), MeanSquare(), InputCosine(), MeanSquare()]
    for metric in (everywhere, also)[:: 1 - 2 * rank]:
        metric.update(torch.full((2 + rank,), 1.0 + rank + 2 * (metric is also)))
    if rank == 0:
        here.update(torch.ones(2))
    uneven.update(torch.ones(2, 3 + rank))
    common = sum_over_ranks(metrics)
    return [metric in common for metric in metrics], float(everywhere.compute()), float(also.compute())


def test_only_what_every_rank_has_updated_alike_is_added_up():
    assert run_ranks(added_up, 2) == [([True, False, False, True], 14 / 5, 66 / 5)] * 2
