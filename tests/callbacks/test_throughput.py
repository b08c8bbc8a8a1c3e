import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.profilers import PassThroughProfiler, SimpleProfiler
from tests.callbacks.training import Wrapped, images, train
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import _get_current_dispatch_mode

from symbreak.callbacks import ExactResume, Throughput
from symbreak.callbacks.plugins import SHARES, Stopwatch, share_of
from symbreak.callbacks.throughput import peak_flops, peak_memory


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


class Watch:
    """A clock that a callback moves by 100 seconds in one hook."""

    def __init__(self, monkeypatch, hook):
        self.ahead, real = 0, time.perf_counter
        monkeypatch.setattr(time, "perf_counter", lambda: real() + self.ahead)
        self.callback = Callback()
        setattr(self.callback, hook, self.move)

    def move(self, *_):
        self.ahead += 100


def logged(*callbacks, **options):
    trainer, logger = train(Wrapped(network()), [Throughput(), *callbacks], **options)
    return trainer, [(step, row) for step, row in logger.rows if "throughput/step_seconds" in row]


def test_keys_are_those_of_the_docstring():
    _, rows = logged(steps=6)
    documented = set(re.findall(r"``(throughput/\w+)``", Throughput.__doc__ or ""))
    assert [set(row) for _, row in rows] == [documented] * 3
    assert [step for step, _ in rows] == [1, 3, 5]


def test_operations_and_images_are_counted():
    _, rows = logged(steps=8, accumulate_grad_batches=2)
    # forward, gradient of the weights, and of the inputs but for the first layer's
    forward = 2 * 16 * (64 * 4 * 27), 2 * 16 * 2560
    flops = 2 * forward[0] + 3 * forward[1]
    for _, row in rows[1:]:
        count = row["throughput/images_per_second"] * row["throughput/step_seconds"]
        assert count == pytest.approx(2 * 16)
        per_step = row["throughput/flops_per_second"] * row["throughput/step_seconds"]
        assert per_step == pytest.approx(2 * flops)
        utilization = row["throughput/flops_per_second"] / row["throughput/peak_flops_per_second"]
        assert row["throughput/model_flops_utilization"] == pytest.approx(utilization)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step"])
def test_slow_callbacks_show(hook, monkeypatch):
    _, rows = logged(Watch(monkeypatch, hook).callback, steps=4)
    last = rows[-1][1]
    shares = {name: last[f"throughput/share_{name}"] for name in SHARES}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["callbacks"] * last["throughput/step_seconds"] >= 100


class Validated(Wrapped):
    def val_dataloader(self):
        return images()


def test_validation_is_not_counted(monkeypatch):
    watch = Watch(monkeypatch, "on_validation_batch_end")
    _, logger = train(Validated(network()), [Throughput(), watch.callback], steps=4, val_check_interval=1)
    assert watch.ahead >= 400
    rows = [row for _, row in logger.rows if "throughput/step_seconds" in row]
    assert len(rows) == 2
    assert all(row["throughput/step_seconds"] < 100 for row in rows)


def test_training_is_the_same_bit_for_bit():
    with_it, without = Wrapped(network()), Wrapped(network())
    train(with_it, [Throughput()])
    train(without, [])
    for one, other in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_profiler_gets_every_action_and_comes_back():
    profiler = SimpleProfiler()
    trainer: Any
    trainer, _ = logged(profiler=profiler)
    assert trainer.profiler is profiler
    assert len(profiler.recorded_durations["run_training_batch"]) == 4


def test_the_profiler_comes_back_after_an_exception():
    class Failing(Wrapped):
        def training_step(self, batch, batch_idx):
            raise ArithmeticError

    profiler = SimpleProfiler()
    throughput = Throughput()
    with pytest.raises(ArithmeticError):
        train(Failing(network()), [throughput], profiler=profiler)
    assert throughput._stopwatch is None
    assert _get_current_dispatch_mode() is None


def test_time_belongs_to_the_innermost_share(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(SimpleProfiler())

    def during(action, seconds, inner=()):
        with watch.profile(action):
            now[0] += seconds
            for step in inner:
                during(*step)

    during("[_TrainingEpochLoop].train_dataloader_next", 1)
    step = [("[Strategy]S.training_step", 2, [("[LightningModule]M.forward", 4)]), ("[Callback]C.on_after_backward", 8)]
    during("[LightningModule]M.optimizer_step", 16, step)
    during("[LightningModule]M.on_train_batch_end", 32)
    now[0] += 64
    watch.pause(True)
    now[0] += 1000
    watch.pause(False)
    during("[_TrainingEpochLoop].train_dataloader_next", 128)
    now[0] += 256
    expected = {"data": 129, "forward": 6, "callbacks": 8, "optimizer": 16, "logging": 96, "other": 256}
    assert watch.take() == expected
    assert watch.take() == {"other": 0}


def test_shares_of_lightnings_actions():
    profiler = SimpleProfiler()
    logged(profiler=profiler)
    found = {share_of(action) for action in profiler.recorded_durations}
    assert {"data", "forward", "backward", "optimizer", "callbacks", "logging"} <= found


def test_the_peak_is_that_of_the_fastest_product_after_the_first(monkeypatch):
    now, seconds = [0.0], [0.001, 4.0, 2.0, 8.0]
    monkeypatch.setattr("symbreak.callbacks.throughput.time.perf_counter", lambda: now[0])
    product = torch.mm

    def timed(a, b):
        now[0] += seconds.pop(0)
        return product(a, b)

    monkeypatch.setattr(torch, "mm", timed)
    assert peak_flops(torch.device("cpu"), torch.float32, size=50, repeats=3) == 2 * 50**3 / 2.0


def test_the_peak_of_memory_grows_by_what_is_allocated():
    before = peak_memory(torch.device("cpu")) or 0
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    size = before - resident + 2**26
    block = torch.ones(size, dtype=torch.uint8)
    assert (peak_memory(torch.device("cpu")) or 0) - before == pytest.approx(2**26, rel=0.25)
    assert block[-1] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_profiler_is_given_back_whatever_else_listened(tmp_path, order):
    trainer: Any = train(Wrapped(network()), [Throughput(), ExactResume(str(tmp_path))][::order], steps=2)[0]
    assert type(trainer.profiler) is PassThroughProfiler


def test_a_compiled_network_compiles_in_the_first_batch_which_is_not_counted():
    """Counting operations would postpone compilation to the second batch, the first that is logged."""
    torch._dynamo.reset()
    counter, compiled = CompileCounterWithBackend("eager"), []

    class Watching(Wrapped):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            compiled.append(counter.frame_count)

    module = Watching(torch.compile(network(), backend=counter))
    _, logger = train(module, [Throughput()], steps=4)
    assert compiled == [1, 1, 1, 1]
    assert "throughput/step_seconds" in logger.keys("throughput")
    assert "throughput/flops_per_second" not in logger.keys("throughput")
