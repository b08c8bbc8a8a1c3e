from typing import cast

import numpy as np
import pytest
import torch
from tests.callbacks.training import Wrapped, train
from torch import nn

from symbreak.callbacks import RankTrajectory


def network():
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Flatten(), nn.Linear(54, 10))


def stable_rank(matrix):
    values = np.linalg.svd(matrix.detach().flatten(1).double().numpy(), compute_uv=False)
    return (values**2).sum() / values[0] ** 2


def test_ranks_are_those_of_the_weight_and_of_its_movement():
    model = network()
    conv = cast(nn.Conv2d, model[0])
    before = conv.weight.detach().clone()
    _, logger = train(Wrapped(model), [RankTrajectory(every_n_steps=1)], steps=3)
    ranks, changes = (logger.series(f"diversity/stable_rank{suffix}/network.0") for suffix in ("", "_change"))
    assert ranks[0] == pytest.approx(stable_rank(before), rel=1e-5)
    assert changes[0] == 0
    assert ranks[3] == pytest.approx(stable_rank(conv.weight), rel=1e-5)
    assert changes[3] == pytest.approx(stable_rank(conv.weight - before), rel=1e-4)


def test_one_step_on_one_sample_moves_a_linear_layer_in_one_direction():
    class Single(Wrapped):
        def training_step(self, batch, batch_idx):
            return super().training_step([each[:1] for each in batch], batch_idx)

    _, logger = train(Single(network()), [RankTrajectory(every_n_steps=1)], steps=1)
    assert logger.series("diversity/numerical_rank_change/network.2")[1] == 1
    assert logger.series("diversity/effective_rank_change/network.2")[1] == pytest.approx(1, abs=1e-3)


def test_the_start_survives_a_resume(tmp_path):
    model = network()
    module, linear = Wrapped(model), cast(nn.Linear, model[2])
    before = linear.weight.detach().clone()
    trainer, _ = train(module, [RankTrajectory(every_n_steps=1)], steps=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, logger = train(module, [RankTrajectory(every_n_steps=1)], steps=4, ckpt_path=tmp_path / "a.ckpt")
    change = linear.weight - before
    assert logger.series("diversity/stable_rank_change/network.2")[4] == pytest.approx(stable_rank(change), rel=1e-4)


def test_the_default_schedule_is_sparse():
    schedule, previous, due = RankTrajectory().schedule, None, []
    for step in range(2000):
        due += [step] if schedule.is_due(step, previous) else []
        previous = step
    assert len(due) == 11


def test_diverged_weights_give_nan_and_no_error():
    class Diverged(Wrapped):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            with torch.no_grad():
                self.network[0].weight[0] = torch.nan

    _, logger = train(Diverged(network()), [RankTrajectory(every_n_steps=1)], steps=1)
    ranks = {key: logger.series(key)[1] for key in logger.keys("diversity") if key.endswith("network.0")}
    assert len(ranks) == 6
    assert all(np.isnan(value) for value in ranks.values())
