"""Log the size and similarity of signals through the layers of a network."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from symbreak.callbacks.layers import FeatureLayer
from symbreak.callbacks.measurements import Found, Row
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.signals import Signal, sum_over_ranks
from symbreak.callbacks.stacks import Features


class SignalPropagation(Monitor):
    """Log per layer the mean squares of activations and gradients, and the mean cosine between different inputs.

    ============================================= ====================================================================
    key                                           meaning
    ============================================= ====================================================================
    ``propagation/activation_square/<layer>``     mean square of the layer's output
    ``propagation/activation_square``             mean over hidden layers
    ``propagation/gradient_square/<layer>``       mean square of the loss's gradient with respect to that output
    ``propagation/gradient_square``               mean over hidden layers
    ``propagation/input_cosine/<layer>``          mean cosine between the outputs for different inputs of a batch
    ``propagation/input_cosine``                  mean over hidden layers
    ============================================= ====================================================================

    Values are over all micro-batches and ranks of a measured step, and equal those of one device on the same data. The
    loss is assumed to be the mean over the whole batch. A layer that ran on only some of the ranks has no value. A
    single input has no input_cosine.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule, dense early and sparse late.
        samples: number of samples, from the start of each micro-batch, that are measured; None for all.
        include: name patterns of the layers to measure; empty for all.
        exclude: name patterns of layers to leave out.

    Raises:
        ValueError: if a number is not positive.
    """

    family = "propagation"
    measures_weights = False
    every_micro_batch = True
    every_rank = True

    def __init__(
        self,
        every_n_steps: int | None = None,
        samples: int | None = 8,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(every_n_steps, samples, include, exclude)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the factor that undoes loss scaling and averaging over ranks for this batch's gradients."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._hooks:
            self._with_gradient.clear()
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            one = torch.ones((), device=pl_module.device)
            self._loss_scale = None if scaler is None else scaler.scale(one)  # on the device, unlike scaler.get_scale()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the number of ranks, over which DDP averages gradients later."""
        super().on_fit_start(trainer, pl_module)
        self._world_size, self._device = trainer.world_size, pl_module.device

    def _reset(self) -> None:
        super()._reset()
        self._loss_scale: Tensor | None = None
        self._world_size, self._device = 1, torch.device("cpu")
        self._with_gradient: set[str] = set()
        self._signals: dict[str, Signal] = {}

    def _observe(self, layer: FeatureLayer, features: Features) -> None:
        self._signals.setdefault(layer.name, Signal()).add(features.first(self.samples))
        self._observe_again(layer, features)

    def _observe_again(self, layer: FeatureLayer, features: Features) -> None:
        """Register a gradient hook: reentrant checkpointing builds its graph only in the backward pass."""
        if features.output.requires_grad and layer.name not in self._with_gradient:
            self._with_gradient.add(layer.name)
            features.output.register_hook(partial(self._on_gradient, layer.name))

    def _on_gradient(self, layer: str, gradient: Tensor) -> None:
        self._signals.setdefault(layer, Signal()).add_gradient(gradient[: self.samples])

    def _close(self) -> None:
        if self._measuring is not None:
            names = [layer.name for layer in self._features if layer.measured]
            found = {name: self._signals.get(name, Signal()) for name in names}
            signals = sum_over_ranks(found, self._world_size, self._device)
            self._found_features = {name: self._sums(name, signal) for name, signal in signals.items()}
            self._signals.clear()
        super()._close()

    def _sums(self, layer: str, signal: Signal) -> Found:
        scales = [] if self._loss_scale is None else [self._loss_scale]
        return [layer], [*scales, *signal.values()], partial(_measures, signal, self._world_size, len(scales))


def _measures(signal: Signal, world_size: int, scales: int, *sums: float) -> Row:
    """Return the measures of one layer from the scales of the loss and the values of its signal."""
    loss_scale, (direction, *norms) = math.prod(sums[:scales]), sums[scales:]
    gradient, outputs = norms[: len(signal.gradient)], norms[len(signal.gradient) :]
    found = {"activation_square": math.hypot(*outputs) ** 2 / signal.entries}
    if gradient:
        found["gradient_square"] = (math.hypot(*gradient) / (world_size * loss_scale)) ** 2 / signal.gradient_entries
    if signal.inputs > 1:
        present = sum(norm != 0 for norm in outputs) if signal.present is None else signal.present
        cosine = (direction**2 - present) / (signal.inputs * (signal.inputs - 1))
        found["input_cosine"] = cosine if math.isnan(cosine) else min(max(cosine, -1.0), 1.0)
    return found
