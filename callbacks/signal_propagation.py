"""Log the size and similarity of signals through the layers of a network."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from symbreak.callbacks.functional._numerics import wide
from symbreak.callbacks.layers import FeatureLayer
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.plugins import InputCosine, MeanSquare

MEASURES: dict[str, type[Metric]] = {
    "activation_square": MeanSquare,
    "gradient_square": MeanSquare,
    "input_cosine": InputCosine,
}


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
            one = torch.ones((), device=pl_module.device)
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = one if scaler is None else scaler.scale(one)  # on the device, unlike scaler.get_scale()
            self._factor = 1 / (trainer.world_size * scale)  # DDP averages gradients over ranks later

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the metrics, in the same order on every rank."""
        super().on_fit_start(trainer, pl_module)
        self._world_size = trainer.world_size
        self._metrics = {
            layer.name: {name: kind(sync_on_compute=False) for name, kind in MEASURES.items()}
            for layer in self._features
            if layer.measured
        }

    def _reset(self) -> None:
        super()._reset()
        self._factor, self._world_size = torch.ones(()), 1
        self._with_gradient: set[str] = set()
        self._inputs: dict[str, int] = {}
        self._metrics: dict[str, dict[str, Metric]] = {}

    def _observe(self, layer: FeatureLayer, features: Tensor) -> None:
        self._update(layer.name, "activation_square", features)
        self._update(layer.name, "input_cosine", features)
        self._inputs[layer.name] = self._inputs.get(layer.name, 0) + len(features[: self.samples])
        self._observe_again(layer, features)

    def _observe_again(self, layer: FeatureLayer, features: Tensor) -> None:
        """Register a gradient hook: reentrant checkpointing builds its graph only in the backward pass."""
        if features.requires_grad and layer.name not in self._with_gradient:
            self._with_gradient.add(layer.name)
            features.register_hook(partial(self._update, layer.name, "gradient_square"))

    def _update(self, layer: str, measure: str, features: Tensor) -> None:
        self._metrics[layer][measure].to(features.device).update(features[: self.samples])

    def _close(self) -> None:
        if self._measuring is not None:
            updated = sum_over_ranks([metric for metrics in self._metrics.values() for metric in metrics.values()])
            for layer, metrics in self._metrics.items():
                found = {measure: metric.compute() for measure, metric in metrics.items() if metric in updated}
                if "gradient_square" in found:
                    square = found["gradient_square"]
                    found["gradient_square"] = square * self._factor.to(square).square()
                if self._inputs.get(layer, 0) * self._world_size < 2:  # no pair of inputs
                    found.pop("input_cosine", None)
                if found:
                    self._from_features[layer] = found
                for metric in metrics.values():
                    metric.reset()
            self._inputs.clear()
        super()._close()


def sum_over_ranks(metrics: list[Metric]) -> set[Metric]:
    """Sum the states of metrics over all ranks, and return the metrics that every rank updated with equal sizes.

    Every rank must pass the same list. One reduction finds the metrics that all ranks can sum; a second one sums their
    states. A layer that ran on only some ranks, or on inputs of another size, is left out without a deadlock.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return {metric for metric in metrics if metric.update_called}
    device = metrics[0].device
    sizes = [sum(x.numel() for x in each.metric_state.values()) if each.update_called else 0 for each in metrics]  # pyright: ignore[reportAttributeAccessIssue]
    extremes = torch.tensor([sizes, [-size for size in sizes]], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MIN)
    low, high = extremes.tolist()
    common = [metric for metric, a, b in zip(metrics, low, high, strict=True) if a == -b > 0]
    states = [(metric, name, value) for metric in common for name, value in metric.metric_state.items()]
    if states:
        total = torch.cat([value.flatten().to(device, wide(device)) for _, _, value in states])  # pyright: ignore[reportAttributeAccessIssue]
        dist.all_reduce(total)
        for (metric, name, value), part in zip(states, total.split([x.numel() for _, _, x in states]), strict=True):  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            setattr(metric, name, part.view_as(value).to(metric.device))  # pyright: ignore[reportArgumentType]
    return set(common)
