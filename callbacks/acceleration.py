"""Faster execution of the same network: compiled blocks, another memory format."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from symbreak.callbacks.layers import feature_layers, weight_layers

RECOMPILE_LIMIT = 256
"""Blocks of one class share a cache: one entry for each shape, in training and in evaluation."""


class Acceleration(Callback):
    """Options that change how fast a network runs, and with it how it rounds. Off, no bit changes.

    Their effect on symmetry depends on the kernels of the device: ``symbreak audit`` says of memory formats, precisions
    and optimisers whether they keep identical channels identical here; of compiled code a run with
    ``SymmetryBreaking`` does. Precision is the trainer's own option (``--trainer.precision=bf16-mixed``), fused and
    foreach optimisers are options of the optimiser (``--optimizer.init_args.fused=true``). All of them are logged.

    Args:
        compile: Compile each block by ``torch.compile`` when it first runs. A block is a module whose output the
            monitors watch, and hooks stay outside of it, so that they see the same tensors as without. Layers outside
            of blocks stay as they are: there is nothing to fuse. Compiled code adds in an order of its own: runs with
            and without it differ in the last bits, and identical channels may come to differ.
        channels_last: Keep the weights, and with them all feature maps, in the memory format (N, H, W, C). The kernels
            are others, so the last bits are too.
    """

    def __init__(self, compile: bool = False, channels_last: bool = False) -> None:
        self.compile = compile
        self.channels_last = channels_last
        self._compiled: list[nn.Module] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the network before it reaches its device."""
        if self.channels_last:
            pl_module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.compile and not self._compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
            owners = {layer.owner for layer in weight_layers(pl_module)}
            self._compiled = [layer.module for layer in feature_layers(pl_module) if layer.name not in owners]
            for block in self._compiled:
                block.forward = torch.compile(block.forward, dynamic=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell every logger what is on, as ``acceleration/<option>``."""
        facts: dict[str, Any] = {"compile": self.compile, "channels_last": self.channels_last}
        facts |= {"precision": str(trainer.precision)}
        for option in ("fused", "foreach"):
            facts[option] = [optimizer.defaults.get(option) for optimizer in trainer.optimizers]
        for logger in trainer.loggers:
            logger.log_hyperparams({f"acceleration/{option}": value for option, value in facts.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the compiled code off; the weights stay in their memory format."""
        for block in self._compiled:
            del block.forward
        self._compiled.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the compiled code off."""
        self.teardown(trainer, pl_module, "fit")
