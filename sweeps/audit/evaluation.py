"""Run the cases of an audit: set the mode, make the inputs, repeat, judge."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from symbreak.callbacks import determinism_mode
from symbreak.callbacks.modes import Mode
from symbreak.sweeps.audit import reduction
from symbreak.sweeps.audit.cases import Case, Device, Finding, Precision, dtype_of, judge, unsupported
from symbreak.sweeps.audit.comparison import repeat
from symbreak.sweeps.audit.operations import OPERATIONS, Inputs

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last, "any": torch.contiguous_format}


def group_cases(
    names: Iterable[str], precisions: Sequence[Precision], memory_formats: Sequence[str], shapes: Sequence[str]
) -> list[list[Case]]:
    """Return the cases of each operation in each precision."""
    return [
        [
            Case(name, precision, shape, memory_format)
            for shape in shapes
            for memory_format in (memory_formats if OPERATIONS[name].images else ["any"])
        ]
        for name in names
        for precision in precisions
    ]


@contextmanager
def process_for(device: Device) -> Iterator[Callable[..., Iterable[list[Finding]]]]:
    """Yield ``map`` on a CPU; on CUDA its counterpart in a fresh process.

    cuBLAS reads its workspace setting from the environment once per process.
    """
    if device == "cpu":
        yield map
    else:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield pool.map


def evaluate(device: Device, mode: Mode, repeats: int, cases: Sequence[Case]) -> list[Finding]:
    """Judge the cases of one operation in one precision under a determinism mode, and restore the mode afterwards.

    Args:
        device: Device to run on.
        mode: Determinism mode.
        repeats: Repetitions after the first run.
        cases: As :func:`group_cases` makes them.

    Returns:
        One finding per case, or a single one with the reason if the device does not support the precision.
    """
    operation, precision = OPERATIONS[cases[0].operation], cases[0].precision
    if reason := _missing(device, precision):
        return [unsupported(Case(operation.name, precision), reason)]

    def produce(case: Case) -> list[torch.Tensor]:
        batch, channels, height, width = map(int, case.shape.split("x"))
        memory_format = _FORMATS[case.memory_format]
        inputs = Inputs((batch, channels, height, width), dtype_of(precision), device, memory_format)
        return repeat(partial(operation.build, inputs), repeats)

    with determinism_mode(mode, allow_tf32=precision == "tfloat32"):
        return [judge(replace(case, mode=mode), partial(produce, case)) for case in cases]


def _missing(device: Device, precision: Precision) -> str | None:
    if precision == "tfloat32" and (device == "cpu" or torch.cuda.get_device_capability() < (8, 0)):
        return "TF32 exists on CUDA devices of compute capability 8.0 and above alone"
    return None


def evaluate_reductions(
    device: Device,
    names: Sequence[str],
    shapes: Sequence[str],
    precisions: Sequence[Precision],
    world_sizes: Sequence[int],
) -> list[Finding]:
    """Judge all reductions of a gradient of ``channels x 9 channels`` for each shape of images.

    On CUDA, world sizes for which there are too few GPUs are reported as unsupported.
    """
    channels = [int(shape.split("x")[1]) for shape in shapes]
    gradients = [f"{count}x{9 * count}" for count in channels]
    cases = reduction.cases(names, gradients, [p for p in precisions if p != "tfloat32"], world_sizes)
    if device == "cpu":
        return reduction.reduce_and_judge(cases)
    gpus = torch.cuda.device_count()
    short = [case for case in cases if case.world_size > gpus and case.operation != reduction.SIMULATED]
    reason = f"NCCL needs a GPU per rank; there are {gpus}"
    possible = [case for case in cases if case not in short]
    return reduction.reduce_and_judge(possible, "nccl") + [unsupported(case, reason) for case in short]
