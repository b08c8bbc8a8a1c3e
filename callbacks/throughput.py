"""Log the speed of training and the time spent in each of its parts."""

import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.data import extract_batch_size
from torch.utils.flop_counter import FlopCounterMode

from symbreak.callbacks.layers import is_compiled
from symbreak.callbacks.plugins import SHARES, Stopwatch, remove_listener

DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}


def peak_flops(device: torch.device, dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> float:
    """Measure floating-point operations per second of a large matrix product, with the current precision switches.

    Args:
        device: Device to measure.
        dtype: Dtype of the matrices.
        size: Number of rows and of columns; by default 8192 on a GPU and 1024 elsewhere.
        repeats: Number of products, of which the fastest counts.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(repeats + 1):
        _synchronize(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a GPU, else of this process; None if unavailable."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


class Throughput(Callback):
    """Log the speed of training and the share of time per part, every ``trainer.log_every_n_steps`` steps.

    ======================================== =======================================================================
    key                                      meaning
    ======================================== =======================================================================
    ``throughput/images_per_second``         over all ranks
    ``throughput/step_seconds``              time of one optimiser step
    ``throughput/share_data``                share of that time in which the loop fetches and transfers batches
    ``throughput/share_forward``             in ``training_step``
    ``throughput/share_backward``            in the backward pass
    ``throughput/share_optimizer``           in the optimiser's step and ``zero_grad``
    ``throughput/share_callbacks``           in callbacks, checkpoints included
    ``throughput/share_logging``             in the module's ``on_train_batch_end`` and in the loggers
    ``throughput/share_other``               in the loop itself
    ``throughput/flops_per_second``          floating-point operations of forward and backward, one rank
    ``throughput/peak_flops_per_second``     of a large matrix product, measured when training starts
    ``throughput/model_flops_utilization``   the ratio of the two
    ``throughput/peak_memory_bytes``         of tensors on a GPU; of the process elsewhere
    ======================================== =======================================================================

    Values are means since they were last logged. They exclude validation and the first batch, in which PyTorch
    allocates, chooses kernels and compiles. Shares are of host time and add up to 1: concurrent GPU work is not
    included, and the one synchronisation, at logged steps, counts as callbacks. Operations are those known to PyTorch's
    counter (matrix products, convolutions, attention), counted during the first batch. Counting would disable compiled
    code, so the two keys that need it are not logged for a network with compiled parts.

    The trainer's profiler is replaced during a fit by a `Stopwatch`, which forwards every call to it.
    """

    def __init__(self) -> None:
        self._stopwatch: Stopwatch | None = None
        self._counter: FlopCounterMode | None = None
        self._flops: int | None = None
        self._peak = 0.0
        self._first = True

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Replace the profiler by a stopwatch."""
        if stage == "fit":
            self._stopwatch = trainer.profiler = Stopwatch(trainer.profiler)
            self._flops, self._first = None, True

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Measure the device's peak."""
        dtype = DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
        self._peak = peak_flops(pl_module.device, dtype)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the operations of the first batch."""
        if self._first and not any(map(is_compiled, pl_module.modules())):
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: Any, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log if due."""
        step, interval = trainer.global_step, trainer.log_every_n_steps
        if self._first:
            self._first = False
            self._stop_counting()
            self._restart(step)
            return
        self._batches += 1
        self._images += extract_batch_size(batch)
        if interval and step % interval == 0 and step != self._since:
            _synchronize(pl_module.device)
            values = self._values(step, trainer.world_size, pl_module.device)
            for logger in trainer.loggers if trainer.is_global_zero else ():
                # the step that Lightning uses for its own logs after this update
                logger.log_metrics({f"throughput/{name}": value for name, value in values.items()}, step - 1)
            self._restart(step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting."""
        if self._stopwatch is not None:
            self._stopwatch.pause(True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resume counting."""
        if self._stopwatch is not None:
            self._stopwatch.pause(False)

    def teardown(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Give back the profiler."""
        self._stop_counting()
        if self._stopwatch is not None:
            remove_listener(trainer, self._stopwatch)
            self._stopwatch = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back the profiler."""
        self.teardown(trainer, pl_module, "fit")

    def _stop_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._flops = self._counter.get_total_flops()
            self._counter = None

    def _restart(self, step: int) -> None:
        assert self._stopwatch is not None
        self._stopwatch.take()
        self._batches, self._images, self._since = 0, 0, step

    def _values(self, step: int, world_size: int, device: torch.device) -> dict[str, float]:
        assert self._stopwatch is not None
        seconds = self._stopwatch.take()
        total = sum(seconds.values())
        values = {
            "images_per_second": self._images * world_size / total,
            "step_seconds": total / (step - self._since),
            "peak_flops_per_second": self._peak,
        }
        values |= {f"share_{share}": seconds[share] / total for share in SHARES}
        if self._flops:
            rate = self._flops * self._batches / total
            values |= {"flops_per_second": rate, "model_flops_utilization": rate / self._peak}
        memory = peak_memory(device)
        return values if memory is None else values | {"peak_memory_bytes": memory}
