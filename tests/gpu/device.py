"""What the tests on CUDA devices share; training happens in fresh processes, because modes belong to a process."""

import multiprocessing
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from tests.callbacks.training import MemoryLogger

from symbreak.callbacks import Determinism, FeatureDiversity, SymmetryBreaking, determinism_state
from symbreak.callbacks.functional import distinct_rows
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import ConstNet
from symbreak.lightning_modules.const_net import Init

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def fresh(function, *arguments):
    """Call a function in a new process, whose cuBLAS has not read its environment yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["symbreak.callbacks", "symbreak.lightning_modules", "symbreak.datamodules"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def monitors():
    return [FeatureDiversity(every_n_steps=1), SymmetryBreaking(every_n_steps=1)]


class Probe(Callback):
    """Notes the switches inside a step."""

    switches = None

    def on_before_backward(self, trainer, pl_module, loss):
        self.switches = determinism_state()


class SyncCounter(Callback):
    """Counts what waits for the device from the start of batch 2 to that of batch 8, all of the loop included."""

    def __init__(self):
        self.count = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:  # the first batches choose kernels and allocate
            self._record = warnings.catch_warnings(record=True)
            self._caught = self._record.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif batch_idx == 8:
            torch.cuda.set_sync_debug_mode("default")
            self._record.__exit__(None, None, None)
            self.count = sum("synchronizing" in str(warning.message) for warning in self._caught)


class Keeper(Callback):
    """Keeps the batches, copied in the order of the work on the device."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append([each.clone() for each in batch])


class Waiter(Callback):
    """Waits for the device in every step."""

    def on_before_backward(self, trainer, pl_module, loss):
        loss.item()


class Timer(Callback):
    """Mean duration of the steps after the first ten, the queue emptied at both ends; first of all callbacks."""

    milliseconds = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 10:
            torch.cuda.synchronize()
            self._started = time.perf_counter()

    def on_train_end(self, trainer, pl_module):
        torch.cuda.synchronize()
        self.milliseconds = 1000 * (time.perf_counter() - self._started) / (trainer.global_step - 10)


def train(mode, steps=20, callbacks=(), init: Init = "he", log_every_n_steps=1000, accelerator="gpu"):
    """Train a small ConstNet on digits; return the module and its logger."""
    seed_everything(0, verbose=False)
    module = ConstNet(depth=10, widen_factor=1, in_channels=1, init=init)
    logger = MemoryLogger()
    trainer = Trainer(
        max_steps=steps,
        accelerator=accelerator,
        devices=1,
        callbacks=[Determinism(mode), *callbacks],
        logger=logger,
        log_every_n_steps=log_every_n_steps,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=DigitsDataModule(seed=0))
    return module, logger


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).cpu()


def trained_weights(mode, watched=False):
    return weights(train(mode, callbacks=monitors() if watched else ())[0])


def switches_in_a_step(mode):
    probe = Probe()
    train(mode, 2, [probe])
    return probe.switches


def synchronisations(mode, watched, waiting=False):
    counter = SyncCounter()
    others = [*(monitors() if watched else []), *([Waiter()] if waiting else [])]
    train(mode, 10, [counter, *others])
    return counter.count


def milliseconds_per_step(mode, *watched):
    """Milliseconds of a step for each choice of monitors, which take turns in one process; medians of five."""
    found = [[] for _ in watched]
    for _ in range(5):
        for times, each in zip(found, watched, strict=True):
            timer = Timer()
            train(mode, 60, [timer, *(monitors() if each else [])])
            times.append(timer.milliseconds)
    return [statistics.median(times) for times in found]


def zero_const_net(mode, steps):
    """What a zero-init ConstNet ends with: distinct filters by layer, the log of the watched steps, the weights."""
    module, logger = train(mode, steps, [SymmetryBreaking(every_n_steps=5)], init="zero", log_every_n_steps=50)
    filters = {name: int(distinct_rows(p.cpu())) for name, p in module.named_parameters() if p.ndim == 4}
    keys = ("broken_step", "escape_step", "max_feature_asymmetry")
    found = {key: list(logger.series(f"symmetry/{key}").values()) for key in keys}
    return filters, found, weights(module)
