"""Base class of the measuring callbacks: schedule, hooks and logging."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from symbreak.callbacks.hooks import ForwardHooks
from symbreak.callbacks.layers import FeatureLayer, WeightLayer, feature_layers, listed, weight_layers
from symbreak.callbacks.measurements import DeviceBuffer, Found, Row, as_it_is, layer_means
from symbreak.callbacks.precision import exact_products
from symbreak.callbacks.schedule import Schedule
from symbreak.callbacks.stacks import Features, Samples, Sums, WeightStack, stacks
from symbreak.callbacks.weights import unmeasured

LOG_EVERY_N_STEPS = 50
"""Flush interval in steps if the trainer's ``log_every_n_steps`` is 0."""


class Monitor(Callback):
    """Measure weights and features at the start of an optimiser step, and log them in batches.

    A measurement at step t uses the weights before update t and the features of that step's first micro-batch, where t
    is ``trainer.global_step``. The weights are measured once more when training ends. Forward hooks exist during
    measured batches only. Values stay on the device until they are flushed: every ``log_every_n_steps`` steps, before
    validation, with a checkpoint, at the end and on an exception. Only rank 0 measures, unless weights are sharded
    (FSDP2, tensor parallelism): then every rank takes part in gathering them.

    All measuring callbacks share one pass over the weights and one hook a layer.

    A subclass sets its ``family`` of keys and overrides any of :meth:`measure_weights`, :meth:`measure_features` and
    :meth:`derive`. Each measure is logged per layer, as ``<family>/<measure>/<layer>``, and as ``<family>/<measure>``,
    its mean over layers. The output of the layer that runs last in a forward pass, the logits, is not a feature.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule, dense early and sparse late.
        samples: number of samples, from the start of the batch, on which features are measured.
        include: name patterns of the layers to measure, such as ``["encoder.*"]``; empty for all.
        exclude: name patterns of layers to leave out.
        per_doubling: measurements between steps t and 2t of the log-spaced schedule.

    Raises:
        ValueError: if a number is not positive, the network has no layer to measure, a pattern in ``include`` matches
            no layer, or a weight cannot be read (no shape yet, or a flat shard).
    """

    family = ""
    measures_weights = True
    measures_features = True  # whether to register forward hooks
    every_micro_batch = False  # whether to measure all micro-batches of a step
    every_rank = False  # whether all ranks measure

    def __init__(
        self,
        every_n_steps: int | None = None,
        samples: int | None = 8,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        per_doubling: int = 16,
    ) -> None:
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.schedule = Schedule(every_n_steps, per_doubling)
        self.samples = samples
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._reset()

    def measure_weights(self, weights: WeightStack) -> Sums | None:
        """Return statistics of the weights of some layers, or None."""
        return None

    def measure_features(self, samples: Samples) -> Sums | None:
        """Return statistics of one layer's output for the first samples, or None."""
        return None

    def derive(self, step: int, row: Row) -> Row:
        """Return further values, computed on the host from one step's measures; called once per measurement."""
        return {}

    def key(self, measure: str, layer: str | None = None) -> str:
        """Return the key under which a measure is logged."""
        return f"{self.family}/{measure}" if layer is None else f"{self.family}/{measure}/{layer}"

    @property
    def output_layer(self) -> str | None:
        """Name of the layer that ran last in a measured forward pass; None until one has run."""
        return self._hooks.last

    def hidden_weights(self) -> list[str]:
        """Return the names of the weight layers except the output layer's; empty until the output layer is known."""
        if self.output_layer is None:
            return []
        return [name for layer in self._features if layer.name != self.output_layer for name in layer.weights]

    def output_layers(self) -> list[str]:
        """Return the names under which the layer that runs last is logged; empty until it has run."""
        weights = [name for layer in self._features if layer.name == self.output_layer for name in layer.weights]
        return [] if self.output_layer is None else [self.output_layer, *weights]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state of an earlier fit; a checkpoint's state is loaded after this."""
        if stage == "fit":
            self._reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers."""
        self._last_flush = trainer.global_step
        self._weights = weight_layers(pl_module, self.include, self.exclude)
        self._features = feature_layers(pl_module, self.include, self.exclude)
        self._on_this_rank = self.every_rank or trainer.is_global_zero or any(each.sharded for each in self._weights)
        if not self._weights:
            raise ValueError(f"{type(self).__name__} finds no layer to measure in {type(pl_module).__name__}")
        if others := unmeasured(pl_module):
            rank_zero_warn(f"There is no measure for the weights of {listed(others)}.")
        if self.measures_features and (hidden := [each.name for each in self._features if each.hides_features]):
            rank_zero_warn(
                f"{listed(hidden)}: compiled as a whole, so features inside are not measured, because hooks there "
                "would change the compiled code. Acceleration(compile=True) compiles block by block instead."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure the weights and attach the hooks, if this batch begins a step that is due."""
        self._hooks.detach()
        if trainer.global_step != self._previous:
            monitors = [each for each in trainer.callbacks if isinstance(each, Monitor)]  # pyright: ignore[reportAttributeAccessIssue]
            measure_weights([each for each in monitors if each._begin(trainer.global_step)])
        if self._measuring is not None and self.measures_features:
            self._hooks.attach(self._features)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remove the hooks; flush every ``log_every_n_steps`` steps."""
        self._hooks.detach()
        if not self.every_micro_batch or trainer.global_step != self._measuring:
            self._close()
        interval = getattr(trainer, "log_every_n_steps", 0) or LOG_EVERY_N_STEPS
        if trainer.global_step - self._last_flush >= interval:
            self.flush(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Flush, so that a log read after validation is complete."""
        if not trainer.sanity_checking:
            self.flush(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights that training ends with."""
        self._close()
        if self._on_this_rank and self.measures_weights:
            self._open(trainer.global_step)
            measure_weights([self])
            self._close()
        self.flush(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the measurements completed before the exception."""
        self.flush(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush first: the saved state already includes these measurements."""
        self.flush(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the last step and the output layer; a subclass adds its derived values."""
        self._drain()
        return {"previous": self._previous, "output_layer": self.output_layer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last step and the output layer."""
        self._previous, self._hooks.last = state_dict["previous"], state_dict["output_layer"]

    def flush(self, trainer: Trainer) -> None:
        """Log all values measured so far to every logger, each at its own step."""
        self._hooks.detach()
        self._drain()
        rows, self._rows = self._rows, []
        self._last_flush = trainer.global_step
        for step, row in rows if trainer.is_global_zero else ():
            for logger in trainer.loggers:
                logger.log_metrics(row, step)

    def _reset(self) -> None:
        self._previous: int | None = None
        self._last_flush = 0
        self._weights: list[WeightLayer] = []
        self._features: list[FeatureLayer] = []
        self._measuring: int | None = None
        self._hooks = ForwardHooks(self._observe, self._observe_again)
        self._on_this_rank = True
        self._from_weights: dict[str, Tensor] = {}  # values by key
        self._found: list[Found] = []
        self._found_features: dict[str, Found] = {}
        self._buffer = DeviceBuffer()
        self._rows: list[tuple[int, Row]] = []

    def _begin(self, step: int) -> bool:
        """Begin a step, and return whether it is measured."""
        self._hooks.detach()
        previous, self._previous = self._previous, step
        if step == previous:
            return False
        self._close()
        if self._on_this_rank and self.schedule.is_due(step, previous):
            self._open(step)
        return self._measuring is not None

    def _open(self, step: int) -> None:
        self._measuring = step

    def _observe(self, layer: FeatureLayer, features: Features) -> None:
        sums = self.measure_features(features.first(self.samples))
        if sums is not None:
            self._found_features[layer.name] = ([layer.name], sums.values, sums.measures)

    def _observe_again(self, layer: FeatureLayer, features: Features) -> None:
        """Receive outputs that activation checkpointing recomputes in the backward pass."""

    def _close(self) -> None:
        """Buffer the finished measurement, without the output layer's features."""
        if self._measuring is None:
            return
        self._found_features.pop(self.output_layer or "", None)
        named: list[Found] = [([key], [value], as_it_is) for key, value in self._from_weights.items()]
        self._buffer.add(self._measuring, [*self._found, *self._found_features.values(), *named])
        self._measuring, self._from_weights, self._found, self._found_features = None, {}, [], {}

    def _drain(self) -> None:
        for step, layers in self._buffer.drain():
            row: Row = {}
            for layer, measures in layers.items():
                row |= {self.key(measure, layer) if measure else layer: value for measure, value in measures.items()}
            row |= layer_means(row)
            self._rows.append((step, row | self.derive(step, row)))


def measure_weights(monitors: Sequence[Monitor]) -> None:
    """Read each weight once, and let all monitors of a step measure it."""
    wanted: dict[str, tuple[WeightLayer, list[Monitor]]] = {}
    for monitor in monitors:
        for layer in monitor._weights if type(monitor).measure_weights is not Monitor.measure_weights else ():
            wanted.setdefault(layer.name, (layer, []))[1].append(monitor)
    with torch.no_grad(), exact_products():
        for stack, among in stacks([(layer, tuple(found)) for layer, found in wanted.values()]):
            for monitor in among:
                sums = monitor.measure_weights(stack)
                if sums is not None:
                    monitor._found.append((stack.names, sums.values, sums.measures))
