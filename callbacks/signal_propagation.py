"""How signals grow, shrink and come to resemble each other on their way through the network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.activation_metrics import InputCosine, MeanSquare
from callbacks.layers import FeatureLayer
from callbacks.monitor import Monitor


class SignalPropagation(Monitor):
    """Logs mean squares of activations and gradients per layer, and how alike different inputs look there.

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

    All micro-batches of a measured step and all ranks take part, so that a value is that of one device over all the
    data; the loss is taken as the mean over the whole batch.

    Args:
        every_n_steps: distance of two measurements; None for a log-spaced schedule, dense early and sparse late.
        samples: the first so many samples of each micro-batch take part; None for all.
        include: name patterns of the layers to measure; all where empty.
        exclude: name patterns of layers to leave out.

    Raises:
        ValueError: if a number is not positive.
    """

    family = "propagation"
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
        """Notes what the gradients are multiplied by, before the hooks are attached."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._handles:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            # Ranks average their gradients later on; a scaler's factor is read only in measured batches.
            self._factor = 1 / trainer.world_size / (scaler.get_scale() if scaler is not None else 1)

    def _reset(self) -> None:
        super()._reset()
        self._factor = 1.0
        self._metrics: dict[str, dict[str, Metric]] = {}

    def _observe(self, layer: FeatureLayer, features: Tensor) -> None:
        self._metric(layer.name, "activation_square", MeanSquare, features).update(features[: self.samples])
        self._metric(layer.name, "input_cosine", InputCosine, features).update(features[: self.samples])
        if features.requires_grad:
            features.register_hook(partial(self._on_gradient, layer.name))

    def _on_gradient(self, layer: str, gradient: Tensor) -> None:
        part = gradient[: self.samples]
        self._metric(layer, "gradient_square", MeanSquare, part).update(part)

    def _metric(self, layer: str, measure: str, kind: Callable[[], Metric], like: Tensor) -> Metric:
        metrics = self._metrics.setdefault(layer, {})
        if measure not in metrics:
            metrics[measure] = kind().to(like.device)
        return metrics[measure]

    def _close(self) -> None:
        for layer, metrics in self._metrics.items() if self._measuring is not None else ():
            updated = {measure: metric for measure, metric in metrics.items() if metric.update_called}
            found = {measure: metric.compute() for measure, metric in updated.items()}
            if "gradient_square" in found:
                found["gradient_square"] = found["gradient_square"] * self._factor**2
            if found:
                self._from_features[layer] = found
            for metric in updated.values():
                metric.reset()
        super()._close()
