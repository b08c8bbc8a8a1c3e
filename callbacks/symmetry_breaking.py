"""Log whether, when and how fast identical channels diverge."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn

from symbreak.callbacks.announce import announce
from symbreak.callbacks.functional.distinct import count_of, slice_counts
from symbreak.callbacks.functional.symmetry import scaled_sums, spread_norm
from symbreak.callbacks.measurements import Row
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.stacks import Samples, Sums, WeightStack
from symbreak.callbacks.symmetry_history import SymmetryHistory

OUTCOMES = ("broken_step", "escape_step", "diverged_step", "growth_rate", "epochs_to_break")
ACCURACY = "val/accuracy"


class SymmetryBreaking(Monitor):
    """Log the number of distinct filters, the asymmetry of weights and features, and the steps of symmetry breaking.

    ========================================= ========================================================================
    key                                       meaning
    ========================================= ========================================================================
    ``symmetry/distinct_filters/<layer>``     number of filters that differ pairwise in at least one bit
    ``symmetry/distinct_filters``             mean over layers
    ``symmetry/distinct_inputs/<layer>``      the same for the inputs (columns)
    ``symmetry/distinct_inputs``              mean over layers
    ``symmetry/weight_asymmetry/<layer>``     rms distance of the filters from their mean, relative to their rms norm
    ``symmetry/weight_asymmetry``             mean over layers
    ``symmetry/feature_asymmetry/<layer>``    the same for the channels of the output
    ``symmetry/feature_asymmetry``            mean over hidden layers
    ``symmetry/max_feature_asymmetry``        maximum over hidden layers
    ``symmetry/broken_step/<layer>``          first measured step at which the filters are not all bitwise equal
    ``symmetry/broken_step``                  the earliest of the hidden layers
    ``symmetry/escape_step``                  first measured step at which max_feature_asymmetry reaches the threshold
    ``symmetry/diverged_step``                first measured step at which an asymmetry of weights or features is NaN;
                                              escape and growth are not evaluated then
    ``symmetry/growth_rate/<layer>``          slope of ln(feature_asymmetry) per step over its last rise from 1e-6 (or
                                              its minimum) to 1e-2
    ``symmetry/growth_rate``                  the same for max_feature_asymmetry
    ``symmetry/growth_rate_r2/<layer>``       the share of variance that the slope explains
    ``symmetry/growth_rate_r2``               the same for max_feature_asymmetry
    ``symmetry/epochs_to_break``              number of epochs after which val/accuracy has exceeded accuracy_level in
                                              four validations, see
                                              :meth:`~symbreak.callbacks.symmetry_history.SymmetryHistory.add_accuracy`
    ========================================= ========================================================================

    A layer with one filter (channel) has no asymmetry. Steps and growth rates are logged once they are known. Symmetry
    breaking, escape and divergence are announced in the progress display and by an alert of an online W&B run, unless
    they are present at the first measurement. :class:`~symbreak.callbacks.monitor.Monitor` describes when and where
    measurements are made.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule, dense early and sparse late.
        samples: number of samples, from the start of the batch, on which features are measured.
        include: name patterns of the layers to measure; empty for all.
        exclude: name patterns of layers to leave out.
        threshold: the asymmetry at which features count as escaped.
        accuracy_level: the accuracy above which a validation counts towards epochs_to_break.
        stop_after_break: stop training this many steps after the break, or later, when the break is known (values are
            read every ``log_every_n_steps`` steps); None to continue.

    Raises:
        ValueError: if a number is out of range.
    """

    family = "symmetry"

    def __init__(
        self,
        every_n_steps: int | None = None,
        samples: int = 8,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        threshold: float = 0.1,
        stop_after_break: int | None = None,
        accuracy_level: float = 0.5,
    ) -> None:
        for name, value in (("threshold", threshold), ("accuracy_level", accuracy_level)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if stop_after_break is not None and stop_after_break < 0:
            raise ValueError(f"stop_after_break must be at least 0, or None to go on, got {stop_after_break}")
        self.threshold, self.accuracy_level = threshold, accuracy_level
        self.stop_after_break = stop_after_break
        super().__init__(every_n_steps, samples, include, exclude)

    def measure_weights(self, weights: WeightStack) -> Sums:
        """Return what bitwise and relative differences of filters are computed from."""
        counts = [*slice_counts(weights.values, 1), *slice_counts(weights.values, 2)]
        if weights.wide is not None:
            spread = spread_norm(weights.wide, 1, 1, weights.exact)
            size = torch.linalg.vector_norm(weights.wide.flatten(1), dim=1)
        else:
            sums = [scaled_sums(weight, 0) for weight in weights.values]
            spread, size = (torch.stack(column).sqrt() for column in list(zip(*sums, strict=True))[:2])
        return Sums([*counts, spread, size], partial(_weight_measures, weights.values.shape[1]))

    def measure_features(self, samples: Samples) -> Sums | None:
        """Return what relative differences of one layer's channels are computed from."""
        if samples.channels < 2:
            return None
        if samples.is_direct:
            return Sums([spread_norm(samples.by_channel, 0, 0, samples.exact), samples.norms], _feature_asymmetry)
        found = samples.products and samples.products.spread_and_square()
        spread, square = found or scaled_sums(samples.features, samples.channel_dim)[:2]
        return Sums([spread.sqrt(), square.sqrt()], _feature_asymmetry)

    def derive(self, step: int, row: Row) -> Row:
        """Return the events of this step and the growth rates of rises that end at it."""
        measures = ("distinct_filters", "feature_asymmetry", "weight_asymmetry")
        distinct, features, weights = (self._by_layer(row, measure) for measure in measures)
        found = self.history.add(step, distinct, features, self.hidden_weights(), weights)
        return {self.key(measure, layer): value for (measure, layer), value in found.items()}

    def flush(self, trainer: Trainer) -> None:
        """Log the values so far and announce their events."""
        super().flush(trainer)
        for title, text in self.history.events:
            announce(trainer, title, text)
        self.history.events.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop ``stop_after_break`` steps after symmetry broke; rank 0 decides for all ranks."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.stop_after_break is not None and self._last_flush == trainer.global_step:
            broken = self.history.broken_step
            due = broken is not None and trainer.global_step >= broken + self.stop_after_break
            stop = trainer.strategy.reduce_boolean_decision(due, all=False)
            trainer.should_stop = trainer.should_stop or stop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of epochs to break when it is reached."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or ACCURACY not in trainer.callback_metrics:
            return
        accuracy = float(trainer.callback_metrics[ACCURACY])
        found = self.history.add_accuracy(trainer.current_epoch + 1, accuracy)
        row = {self.key(measure, layer): value for (measure, layer), value in found.items()}
        for logger in trainer.loggers if row and trainer.is_global_zero else ():
            logger.log_metrics(row, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write outcomes to W&B's summary; None if an event never occurred."""
        super().on_train_end(trainer, pl_module)
        outcome = {self.key(name): getattr(self.history, name) for name in OUTCOMES}
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(outcome)

    def state_dict(self) -> dict[str, Any]:
        """Add the history."""
        return super().state_dict() | {"history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        super().load_state_dict(state_dict)
        self.history.load_state_dict(state_dict["history"])

    def _reset(self) -> None:
        super()._reset()
        self.history = SymmetryHistory(self.threshold, self.accuracy_level)

    def _by_layer(self, row: Row, measure: str) -> Row:
        prefix = self.key(measure, "")
        return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


def _weight_measures(filters: int, *sums: float) -> Row:
    counts, (spread, size) = sums[:4], sums[4:]
    found = {"distinct_filters": count_of(*counts[:2]), "distinct_inputs": count_of(*counts[2:])}
    return found | ({"weight_asymmetry": _ratio(spread, size)} if filters > 1 else {})


def _feature_asymmetry(spread: float, *norms: float) -> Row:
    return {"feature_asymmetry": _ratio(spread, math.hypot(*norms))}


def _ratio(spread: float, size: float) -> float:
    """Return spread / size in [0, 1], 0 if both are 0, NaN if one is not a finite number."""
    if not math.isfinite(spread) or not math.isfinite(size):
        return math.nan
    return min(spread / size, 1.0) if size else 0.0
