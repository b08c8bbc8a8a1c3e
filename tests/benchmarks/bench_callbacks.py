"""What watching costs a training step: all callbacks, each one alone, and `wandb.watch`."""

import pytest
import torch
from tests.benchmarks.loops import RandomImages, lightning

from symbreak.callbacks import (
    Determinism,
    ExactResume,
    FeatureDiversity,
    RankTrajectory,
    RoundingNoise,
    SignalPropagation,
    SymmetryBreaking,
    Throughput,
)
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.run.logger import RunLogger
from symbreak.sweeps.run.wandb_logging import wandb_logger

ON_GPU = torch.cuda.is_available()
WATCHING = (FeatureDiversity, SymmetryBreaking, SignalPropagation)
NETWORKS = {
    "10-1": ({"depth": 10, "widen_factor": 1, "in_channels": 1}, DigitsDataModule, 10, 31),
    "16-4": ({"depth": 16, "widen_factor": 4}, RandomImages, 2, 15),
}
if ON_GPU:
    NETWORKS["16-10"] = ({"depth": 16, "widen_factor": 10}, RandomImages, 20, 15)
NEVER = 10**9
RUN = 5000
AIMS = {"10-1": ("<= 70", "< 4", ">= 2"), "16-4": ("<= 2.5", "< 0.1", ">= 2"), "16-10": ("<= 1", "< 0.1", ">= 10")}
"""Cost at every step, cost by default, and how many times as much wandb.watch costs."""
SMALL_BATCH = 8
"""What a callback costs does not depend on the batch beyond this size, but in short steps it can be told from noise."""


def share_measured(schedule):
    """Share of the steps of a run that a schedule measures."""
    return (1 + sum(schedule.is_due(step, step - 1) for step in range(1, RUN))) / RUN


def watched_by_wandb(network, data, folder):
    """`wandb.watch(log="all")` with a histogram of every weight and gradient at every step."""

    def loop(tick):
        logger = wandb_logger(folder, {}, mode="offline")
        assert logger is not None
        logger.watch(network, log="all", log_freq=1)
        lightning(network, data, logger=logger)(tick)
        logger.experiment.finish()

    return loop


@pytest.fixture
def costs(compare_loops, tmp_path):
    """Of each list of callbacks, and of `wandb.watch`: % of a training step at batch 128."""

    def measure(name, watchers, wandb_too=False):
        arguments, data, steps, rounds = NETWORKS[name]
        small = {
            key: lightning(
                ConstNet(**arguments),
                data(batch_size=SMALL_BATCH),
                callbacks,
                logger=RunLogger(tmp_path / key),
            )
            for key, callbacks in {"none": [], **watchers}.items()
        }
        if wandb_too:
            small["wandb.watch"] = watched_by_wandb(ConstNet(**arguments), data(batch_size=SMALL_BATCH), tmp_path)
        loops = {"nothing": [], "no step": [kind(every_n_steps=NEVER) for kind in (*WATCHING, RankTrajectory)]}
        for key, callbacks in loops.items():  # what is left at other steps is told apart in steps of milliseconds
            network, folder = ConstNet(7, 1, in_channels=1), tmp_path / f"idle {key}"
            loops[key] = lightning(network, DigitsDataModule(batch_size=8), callbacks, logger=RunLogger(folder))
        whole = lightning(ConstNet(**arguments), data(batch_size=128), logger=RunLogger(tmp_path / "whole"))
        seconds = compare_loops({"whole": whole, **small, **loops}, steps, rounds)
        cost = {key: 100 * (seconds[key] - seconds["none"]) / seconds["whole"] for key in small if key != "none"}
        return cost | {"no step": 100 * (seconds["no step"] - seconds["nothing"]) / seconds["whole"]}

    return measure


@pytest.mark.parametrize("name", NETWORKS)
def test_watching(costs, record, monkeypatch, name):
    monkeypatch.setenv("WANDB_MODE", "offline")
    every = [kind(every_n_steps=1) for kind in WATCHING]
    watchers = {"every step": every, "ranks": [RankTrajectory(every_n_steps=1)]}
    cost = costs(name, watchers, wandb_too=True)
    by_default = (
        cost["no step"]
        + share_measured(FeatureDiversity().schedule) * cost["every step"]
        + share_measured(RankTrajectory().schedule) * cost["ranks"]
    )
    aims = AIMS["16-10" if ON_GPU else name]
    record(f"all callbacks but ranks at every step, % of a step, ConstNet {name}", cost["every step"], aims[0])
    record(f"all callbacks by default, % of a run of {RUN} steps, ConstNet {name}", by_default, aims[1])
    record(f"all callbacks at a step that is not measured, % of a step, ConstNet {name}", cost["no step"])
    record(f"RankTrajectory at every step, % of a step, ConstNet {name}", cost["ranks"])
    record(f"wandb.watch at every step, % of a step, ConstNet {name}", cost["wandb.watch"])
    ratio = cost["wandb.watch"] / cost["every step"]
    record(f"wandb.watch / all callbacks, both at every step, ConstNet {name}", ratio, aims[2])
    ratio = cost["wandb.watch"] / by_default
    record(f"wandb.watch at every step / all callbacks by default, ConstNet {name}", ratio, aims[2])


def test_each_callback(costs, record):
    watchers = {kind.__name__: [kind(every_n_steps=1)] for kind in (*WATCHING, RankTrajectory)}
    others = (Throughput(), Determinism(), RoundingNoise(1), ExactResume())
    watchers |= {type(callback).__name__: [callback] for callback in others}
    cost = costs("10-1", watchers)
    for name in watchers:
        record(f"{name}, % of a step, ConstNet 10-1", cost[name])
