"""Determinism modes of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from symbreak.callbacks.modes import Mode
from symbreak.callbacks.plugins import environment
from symbreak.callbacks.precision import cudnn_allow_tf32, float32_matmul_precision, kept_precisions

Switches = dict[str, bool | str | None]

_MODES: dict[str, Switches] = {
    "nondeterministic": {
        "cudnn_deterministic": False,
        "cudnn_benchmark": True,
        "deterministic_algorithms": False,
        "cublas_workspace_config": None,
    },
    "cudnn": {
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "deterministic_algorithms": False,
        "cublas_workspace_config": None,
    },
    "strict": {
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "deterministic_algorithms": True,
        "cublas_workspace_config": ":4096:8",
    },
}


_DEFAULTS: Switches = {
    "cudnn_deterministic": False,
    "cudnn_benchmark": False,
    "deterministic_algorithms": False,
    "cublas_workspace_config": None,
    "cudnn_allow_tf32": True,
    "float32_matmul_precision": "highest",
}
"""PyTorch's defaults; any other value was set explicitly."""


def mode_switches(mode: Mode, allow_tf32: bool = False) -> Switches:
    """Return the state of every switch in a determinism mode.

    Args:
        mode: ``nondeterministic``, ``cudnn`` (cuDNN only, as published) or ``strict`` (every algorithm).
        allow_tf32: Whether float32 convolutions and matrix products may round their inputs to TF32.

    Raises:
        ValueError: If the mode is none of the three.
    """
    if mode not in _MODES:
        raise ValueError(f"determinism mode {mode!r} is unknown; allowed: {', '.join(_MODES)}")
    return _MODES[mode] | {
        "cudnn_allow_tf32": allow_tf32,
        "float32_matmul_precision": "high" if allow_tf32 else "highest",
    }


def determinism_state() -> Switches:
    """Return the current switches of this process, under the names of :func:`mode_switches`."""
    return {
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "cudnn_allow_tf32": cudnn_allow_tf32(),
        "float32_matmul_precision": float32_matmul_precision(),
    }


def _set_switches(switches: Switches, warn_only: bool = False) -> None:
    torch.backends.cudnn.deterministic = bool(switches["cudnn_deterministic"])
    torch.backends.cudnn.benchmark = bool(switches["cudnn_benchmark"])
    torch.use_deterministic_algorithms(bool(switches["deterministic_algorithms"]), warn_only=warn_only)
    torch.backends.cudnn.allow_tf32 = bool(switches["cudnn_allow_tf32"])
    torch.set_float32_matmul_precision(str(switches["float32_matmul_precision"]))
    workspace = switches["cublas_workspace_config"]
    if workspace is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    else:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = str(workspace)


@contextmanager
def determinism_mode(mode: Mode, allow_tf32: bool = False) -> Iterator[Switches]:
    """Set every switch of a mode within a ``with`` block, and restore the previous state afterwards.

    cuBLAS reads its workspace configuration when its handle is created, at the process's first matrix product on a GPU.
    Enter the first mode before that, and use one process per mode if the modes must be exact.
    """
    before, warn_only = determinism_state(), torch.is_deterministic_algorithms_warn_only_enabled()
    switches = mode_switches(mode, allow_tf32)
    with kept_precisions():
        try:
            _set_switches(switches)
            yield switches
        finally:
            _set_switches(before, warn_only)


class Determinism(Callback):
    """Train, validate or test in one of three determinism modes, and restore the previous state at the end.

    | mode | cudnn.deterministic | cudnn.benchmark | use_deterministic_algorithms | CUBLAS_WORKSPACE_CONFIG |
    |---|---|---|---|---|
    | nondeterministic | off | on | off | unset |
    | cudnn | on | off | off | unset |
    | strict | on | off | on | :4096:8 |

    The switches are set in ``setup``, before the model is moved to its device. They are global to the process: run
    different modes in different processes. The state is logged as ``determinism/<switch>``, libraries and devices as
    ``environment/<name>``.

    Args:
        mode: One of the table's modes.
        allow_tf32: Whether float32 convolutions and matrix products may round their inputs to TF32.

    Raises:
        ValueError: If the mode is none of the three.
    """

    def __init__(self, mode: Mode = "strict", allow_tf32: bool = False) -> None:
        self.mode: Mode = mode
        self.allow_tf32 = allow_tf32
        self.switches = mode_switches(mode, allow_tf32)
        self._active: AbstractContextManager[Switches] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the switches, and warn about settings of the environment or of Lightning that they replace."""
        self._restore()
        for name, value in determinism_state().items():
            if value not in (_DEFAULTS[name], self.switches[name]):
                rank_zero_warn(
                    f"{name}={value} (set by the environment, the Trainer's deterministic or benchmark, or your code) "
                    f"is replaced by {self.switches[name]} for mode {self.mode!r}."
                )
        override = os.environ.get("NVIDIA_TF32_OVERRIDE")
        if override is not None:
            rank_zero_warn(
                f"NVIDIA_TF32_OVERRIDE={override} overrules allow_tf32={self.allow_tf32} in NVIDIA's libraries."
            )
        self._active = determinism_mode(self.mode, self.allow_tf32)
        self._active.__enter__()
        facts = {f"determinism/{k}": v for k, v in determinism_state().items()}
        facts |= {f"environment/{k}": v for k, v in (environment() | {"world_size": trainer.world_size}).items()}
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about every switch that was changed since ``setup``."""
        for name, value in determinism_state().items():
            if value != self.switches[name]:
                rank_zero_warn(f"{name} is {value!r}, but mode {self.mode!r} asked for {self.switches[name]!r}.")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the state from before ``setup``."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the state from before ``setup`` after a failed or interrupted run."""
        self._restore()

    def _restore(self) -> None:
        if self._active is not None:
            self._active.__exit__(None, None, None)
            self._active = None
