"""Faster execution of the same network: compiled blocks and the channels-last memory format."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from symbreak.callbacks.layers import feature_layers, weight_layers

RECOMPILE_LIMIT = 256
"""Blocks of one class share a dynamo cache, with an entry per shape and mode (training, evaluation)."""


class Acceleration(Callback):
    """Compile blocks or use the channels-last memory format; both change rounding. The defaults change no bit.

    The effect on symmetry depends on the device's kernels. ``symbreak audit`` tests whether memory formats, precisions
    and optimisers keep identical channels identical on this device; for compiled code, run with ``SymmetryBreaking``.
    Precision is an option of the trainer (``--trainer.precision=bf16-mixed``); fused and foreach are options of the
    optimiser (``--optimizer.init_args.fused=true``). All of them are logged.

    Args:
        compile: Compile each block with ``torch.compile`` when it first runs. A block is a module whose output the
            monitors measure. Hooks stay outside compiled code and see the same tensors. Layers outside blocks are not
            compiled: there is nothing to fuse. Compiled code may change the order of summation: runs with and without
            it differ in the last bits, and identical channels may diverge.
        channels_last: Keep the weights, and thereby all feature maps, in the memory format (N, H, W, C). Other kernels
            run, so the last bits differ. ``auto`` leaves the choice to `is_safe`.

    Attributes:
        is_safe: takes the network, the trainer's precision and the device, and returns whether channels_last is faster
            and keeps identical channels identical; never, unless it is set. ``symbreak fit`` sets a rule on recorded
            audits.
        uses_channels_last: what was chosen.
    """

    def __init__(self, compile: bool = False, channels_last: bool | Literal["auto"] = False) -> None:
        self.compile = compile
        self.channels_last = channels_last
        self.is_safe: Callable[[nn.Module, str, torch.device], bool] = _never
        self.uses_channels_last = channels_last is True
        self._compiled: list[nn.Module] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the network before it reaches its device."""
        if self.channels_last == "auto":
            self.uses_channels_last = self.is_safe(pl_module, str(trainer.precision), trainer.strategy.root_device)
        if self.uses_channels_last:
            pl_module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.compile and not self._compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
            owners = {layer.owner for layer in weight_layers(pl_module)}
            self._compiled = [layer.module for layer in feature_layers(pl_module) if layer.name not in owners]
            for block in self._compiled:
                block.forward = torch.compile(block.forward, dynamic=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log each option to every logger as ``acceleration/<option>``."""
        facts: dict[str, Any] = {"compile": self.compile, "channels_last": self.uses_channels_last}
        facts |= {"precision": str(trainer.precision)}
        for option in ("fused", "foreach"):
            facts[option] = [optimizer.defaults.get(option) for optimizer in trainer.optimizers]
        for logger in trainer.loggers:
            logger.log_hyperparams({f"acceleration/{option}": value for option, value in facts.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the compiled code; the weights keep their memory format."""
        for block in self._compiled:
            del block.forward
        self._compiled.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the compiled code."""
        self.teardown(trainer, pl_module, "fit")


def _never(network: nn.Module, precision: str, device: torch.device) -> bool:
    return False
