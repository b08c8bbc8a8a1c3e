"""Derive the steps and growth rates of symmetry breaking from a run's successive measurements."""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from symbreak.callbacks.functional import Growth, growth

LOW, HIGH = 1e-6, 1e-2
CAPACITY = 4096
PASSES = 4
"""Number of validations whose accuracy must exceed the level that shows that symmetry has broken."""

Findings = dict[tuple[str, str | None], float]


class SymmetryHistory:
    """Find the steps at which symmetry broke and features escaped, and the growth rates in between.

    Args:
        threshold: the largest asymmetry over hidden layers at which features count as escaped.
        accuracy_level: the accuracy above which a validation counts towards ``epochs_to_break``.

    Attributes:
        broken_steps: for each layer the first measured step at which its filters were not all bitwise equal.
        broken_step: the earliest of the hidden layers.
        escape_step: the first measured step at which the threshold was reached.
        diverged_step: the first measured step at which an asymmetry was NaN.
        growth_rate: the latest growth rate of the largest asymmetry, per step.
        epochs_to_break: see :meth:`add_accuracy`.
        events: (title, sentence) of each event after the first measurement that has not been announced yet.
    """

    def __init__(self, threshold: float, accuracy_level: float = 0.5) -> None:
        self.threshold = threshold
        self.accuracy_level = accuracy_level
        self.broken_steps: dict[str, int] = {}
        self.broken_step: int | None = None
        self.escape_step: int | None = None
        self.diverged_step: int | None = None
        self.growth_rate: float | None = None
        self.epochs_to_break: int | None = None
        self._passes = 0
        self.events: list[tuple[str, str]] = []
        self._rises: dict[str, Rise] = {}
        self._begun = False

    def add(
        self,
        step: int,
        distinct: dict[str, float],
        asymmetry: dict[str, float],
        hidden: Collection[str],
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> Findings:
        """Add one measurement and return its findings by measure and layer (None for the whole network).

        Args:
            step: step of the measurement, larger than all previous ones.
            distinct: number of distinct filters by weight layer.
            asymmetry: asymmetry of the features by hidden layer; empty if features were not measured.
            hidden: names of the hidden weight layers.
            weights: asymmetry of the weights by weight layer.
        """
        found = self._broken(step, [layer for layer, count in distinct.items() if count > 1], hidden)
        lost = {layer for row in (weights, asymmetry) for layer, value in row.items() if not math.isfinite(value)}
        if lost:
            found |= self._diverged(step, sorted(lost))
        elif asymmetry:
            found |= self._escaped(step, max(asymmetry.values()))
            found |= self._grown(step, asymmetry)
        self._begun = True
        return found

    def add_accuracy(self, epochs: int, accuracy: float) -> Findings:
        """Add one validation and return ``epochs_to_break`` if it is the one that defines it.

        With a_1, a_2, ... the accuracies of successive validations and e_i the number of epochs trained by the i-th,
        epochs_to_break = e_k for the smallest k such that a_i > accuracy_level for four i <= k. The four need not be
        consecutive.

        Source: the published code of Blumenfeld, Gilboa, Soudry, "Beyond Signal Propagation", ICML 2020, which
        validates on the test set after every epoch, with a level of 50 %.

        Args:
            epochs: number of epochs trained so far, the current one included.
            accuracy: share of correct predictions.
        """
        self._passes += accuracy > self.accuracy_level
        if self.epochs_to_break is not None or self._passes < PASSES:
            return {}
        self.epochs_to_break = epochs
        return {("epochs_to_break", None): epochs}

    def state_dict(self) -> dict[str, Any]:
        """Return all state except the threshold and the level."""
        return {
            "broken_steps": dict(self.broken_steps),
            "broken_step": self.broken_step,
            "escape_step": self.escape_step,
            "diverged_step": self.diverged_step,
            "growth_rate": self.growth_rate,
            "epochs_to_break": self.epochs_to_break,
            "passes": self._passes,
            "rises": {layer: rise.state_dict() for layer, rise in self._rises.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state."""
        self.broken_steps = dict(state_dict["broken_steps"])
        self.broken_step, self.escape_step = state_dict["broken_step"], state_dict["escape_step"]
        self.diverged_step, self.growth_rate = state_dict["diverged_step"], state_dict["growth_rate"]
        # Checkpoints of earlier versions do not count validations.
        self.epochs_to_break, self._passes = state_dict.get("epochs_to_break"), state_dict.get("passes", 0)
        self._rises = {layer: Rise(**state) for layer, state in state_dict["rises"].items()}
        self._begun = True

    def _broken(self, step: int, unequal: list[str], hidden: Collection[str]) -> Findings:
        new = [layer for layer in unequal if layer not in self.broken_steps]
        self.broken_steps |= dict.fromkeys(new, step)
        found: Findings = {("broken_step", layer): step for layer in new}
        inner = [layer for layer in unequal if layer in hidden]
        if self.broken_step is None and inner:
            self.broken_step = found["broken_step", None] = step
            self._event("Symmetry broke", f"symmetry broke at step {step}: filters differ in {', '.join(inner)}")
        return found

    def _escaped(self, step: int, largest: float) -> Findings:
        found: Findings = {("max_feature_asymmetry", None): largest}
        if self.escape_step is None and largest >= self.threshold:
            self.escape_step = found["escape_step", None] = step
            self._event("Features escaped", f"features escaped at step {step}: their asymmetry is {largest:.2g}")
        return found

    def _diverged(self, step: int, layers: list[str]) -> Findings:
        if self.diverged_step is not None:
            return {}
        self.diverged_step = step
        self._event("Training diverged", f"training diverged at step {step}: no numbers in {', '.join(layers)}")
        return {("diverged_step", None): step}

    def _grown(self, step: int, asymmetry: dict[str, float]) -> Findings:
        found: Findings = {}
        for layer, value in [*asymmetry.items(), ("", max(asymmetry.values()))]:
            growth = self._rises.setdefault(layer, Rise()).add(step, value)
            if growth is not None:
                found["growth_rate", layer or None] = growth.rate
                found["growth_rate_r2", layer or None] = growth.r2
        self.growth_rate = found.get(("growth_rate", None), self.growth_rate)
        return found

    def _event(self, title: str, text: str) -> None:
        if self._begun:
            self.events.append((title, text))


class Rise:
    """Record a curve since it was last below ``LOW``, and return its growth rate when it crosses ``HIGH``.

    Every other measurement is dropped when a rise has more than ``CAPACITY``.
    """

    def __init__(self, steps: Sequence[int] = (), values: Sequence[float] = ()) -> None:
        self._steps, self._values = list(steps), list(values)

    def add(self, step: int, value: float) -> Growth | None:
        """Append a measurement; return the growth rate if a rise ends with it."""
        passes = bool(self._values) and self._values[-1] < HIGH <= value
        if value < LOW or (value >= HIGH and not passes):
            self._steps.clear()
            self._values.clear()
        self._steps.append(step)
        self._values.append(value)
        if len(self._steps) > CAPACITY:
            self._steps, self._values = self._steps[::2], self._values[::2]
        return growth(self._steps, self._values, LOW, HIGH) if passes else None

    def state_dict(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal object."""
        return {"steps": list(self._steps), "values": list(self._values)}
