"""What watching costs a training step: all callbacks, each one alone, and `wandb.watch`."""

import pytest
import torch

from callbacks import (
    Determinism,
    ExactResume,
    FeatureDiversity,
    RankTrajectory,
    RoundingNoise,
    SignalPropagation,
    SymmetryBreaking,
    Throughput,
)
from callbacks.schedule import Schedule
from datamodules import DigitsDataModule
from lightning_modules import ConstNet
from sweeps.run_folder import RunLogger
from sweeps.wandb_run import wandb_logger
from tests.benchmarks.loops import RandomImages, lightning

ON_GPU = torch.cuda.is_available()
WATCHING = (FeatureDiversity, SymmetryBreaking, SignalPropagation)
NETWORKS = {
    "10-1": ({"depth": 10, "widen_factor": 1, "in_channels": 1}, DigitsDataModule, 50, 9),
    "16-4": ({"depth": 16, "widen_factor": 4}, RandomImages, 1, 11),
}
if ON_GPU:
    NETWORKS["16-10"] = ({"depth": 16, "widen_factor": 10}, RandomImages, 20, 11)
NEVER = 10**9
RUN = 5000
BIG = "16-10" if ON_GPU else "16-4"


def watching(every_n_steps):
    """All measuring callbacks; ranks, which are not linear in the weights, keep their own sparse schedule."""
    return [*(callback(every_n_steps=every_n_steps) for callback in WATCHING), RankTrajectory()]


def watched_by_wandb(network, data, folder):
    """`wandb.watch(log="all")` with a histogram of every weight and gradient at every step."""

    def loop(tick):
        logger = wandb_logger(folder, {}, mode="offline")
        assert logger is not None
        logger.watch(network, log="all", log_freq=1)
        lightning(network, data, logger=logger)(tick)
        logger.experiment.finish()

    return loop


@pytest.mark.parametrize("name", NETWORKS)
def test_watching(compare_loops, record, tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments, data, steps, rounds = NETWORKS[name]
    loops = {
        "none": lightning(ConstNet(**arguments), data(), logger=RunLogger(tmp_path / "none")),
        "every step": lightning(ConstNet(**arguments), data(), watching(1), logger=RunLogger(tmp_path / "every")),
        "no step": lightning(ConstNet(**arguments), data(), watching(NEVER), logger=RunLogger(tmp_path / "no")),
        "wandb.watch": watched_by_wandb(ConstNet(**arguments), data(), tmp_path),
    }
    seconds = compare_loops(loops, steps, rounds)
    cost = {loop: 100 * (value / seconds["none"] - 1) for loop, value in seconds.items()}
    schedule = Schedule()
    measured = sum(schedule.is_due(step, step - 1) for step in range(RUN)) / RUN
    by_default = cost["no step"] + measured * (cost["every step"] - cost["no step"])
    aims = (("<= 1" if ON_GPU else "<= 5"), "< 0.5") if name == BIG else ("", "")
    record(f"all callbacks at every step, % of a step, ConstNet {name}", cost["every step"], aims[0])
    record(f"all callbacks at no step, % of a step, ConstNet {name}", cost["no step"])
    record(f"all callbacks by default, % of a run of {RUN} steps, ConstNet {name}", by_default, aims[1])
    record(f"wandb.watch at every step, % of a step, ConstNet {name}", cost["wandb.watch"])
    record(f"wandb.watch / all callbacks, ConstNet {name}", cost["wandb.watch"] / cost["every step"], ">= 10")


def test_each_callback(compare_loops, record, tmp_path):
    alone = {callback.__name__: callback(every_n_steps=1) for callback in WATCHING}
    alone |= {"RankTrajectory": RankTrajectory(), "Throughput": Throughput(), "Determinism": Determinism()}
    alone |= {"RoundingNoise": RoundingNoise(1), "ExactResume": ExactResume()}
    arguments, data, steps, rounds = NETWORKS["10-1"]
    loops = {
        name: lightning(ConstNet(**arguments), data(), callbacks, logger=RunLogger(tmp_path / name))
        for name, callbacks in {"none": [], **{name: [callback] for name, callback in alone.items()}}.items()
    }
    seconds = compare_loops(loops, steps, rounds)
    for name in alone:
        record(f"{name}, % of a step, ConstNet 10-1", 100 * (seconds[name] / seconds["none"] - 1))
