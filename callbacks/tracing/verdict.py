"""Findings of a trace, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from symbreak.callbacks.tracing.places import Place

Kind = Literal["separation", "randomness", "values", "labels", "data"]
INITIAL = "initial weights"
ALL_REDUCE = "all-reduce over"
"""Start of the name of a reduction, before the number of ranks."""
BREAKS: tuple[Kind, ...] = ("separation", "randomness", "values")


@dataclass(frozen=True)
class Event:
    """An operation whose output slices differ without a difference in the inputs that govern them.

    Args:
        number: Position among the events.
        kind: `separation`: equal inputs, different outputs; `randomness`: the operation draws random numbers; `values`:
            values that already differed on arrival, or were moved so that they differ; `labels`: differences between
            classes that integer inputs explain; `data`: the batch, or values of earlier steps that the batch explains.
        operation: Name, such as `aten::convolution_backward`, or `initial weights`.
        subject: Description of the tensor, such as `gradient of blocks.3.conv.weight`, or the output of a module.
        place: Phase, module and line.
        step: Number of updates after which the event can make weights differ; for initial weights, the number at the
            start.
        dtype: Dtype of the tensor.
        shape: Shape of the tensor.
        axis: Axis along which slices were compared.
        groups: Number of groups of equal slices.
        ulps: Largest difference between slices that should be equal, in ulps of the largest entry.
        index: Position among all operations of the trace.
        convolution: Kind and kernel of a convolution, such as `grouped_conv3x3`; empty for another operation.
    """

    number: int
    kind: Kind
    operation: str
    subject: str
    place: Place
    step: int
    dtype: str
    shape: tuple[int, ...]
    axis: int
    groups: int
    ulps: float | None
    index: int
    convolution: str = ""

    @property
    def slices(self) -> int:
        """Return the number of slices along the axis."""
        return self.shape[self.axis]

    @property
    def is_from_another_rank(self) -> bool:
        """Return whether the values differed on another rank before they were reduced."""
        return self.kind == "values" and self.operation.startswith((ALL_REDUCE, "c10d::"))

    @property
    def unit(self) -> str:
        """Return the name of the slices: filters along the first axis of a weight or its gradient, else slices."""
        is_weight = len(self.shape) > 1 and self.subject.endswith("weight")
        return ("filters", "inputs")[self.axis] if is_weight and self.axis < 2 else "slices"

    def __str__(self) -> str:
        parts = [self.operation, self.subject, self.dtype]
        if self.groups > 1:
            parts.append(f"{self.slices} {self.unit} in {self.groups} groups")
        if self.ulps is not None:
            parts.append(f"at most {_number(self.ulps)} ulp{'' if self.ulps == 1 else 's'}")
        if self.place.line is not None:
            parts.append(f"at {self.place.line}")
        if self.kind != "separation":
            kind = "values of another rank" if self.is_from_another_rank else self.kind
            parts.insert(0, {"randomness": "random numbers"}.get(kind, kind))
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Change:
    """A weight whose partition became finer.

    Args:
        weight: Name of the parameter.
        axis: 0 for its filters (rows), 1 for its inputs (columns).
        before: Number of groups at the start.
        after: Number of groups at the end.
        causes: The events that reached the weight, in order.
    """

    weight: str
    axis: int
    before: int
    after: int
    causes: tuple[Event, ...]

    @property
    def cause(self) -> Event | None:
        """Return the first event that is a break; None if labels and data explain the change."""
        return next((event for event in self.causes if event.kind in BREAKS), None)


@dataclass
class Trace:
    """Result of a trace.

    Attributes:
        operations: Number of operations whose outputs were compared.
        seen: Number of operations that ran.
        steps: Optimiser steps traced.
        events: Events in order.
        initial: Number of groups of filters at the start, by name, of each weight whose filters already differed.
        changes: Weights whose partition became finer.
        features: Weights and axes whose slices belong to input features, which the data tell apart.
        compiled: Names of compiled modules, whose inner operations are not traced.
    """

    operations: int = 0
    seen: int = 0
    steps: int = 0
    events: list[Event] = field(default_factory=list)
    initial: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    features: set[tuple[str, int]] = field(default_factory=set)
    compiled: tuple[str, ...] = ()

    @property
    def separations(self) -> list[Event]:
        """Return the operations that made equal slices differ without randomness."""
        return [event for event in self.events if event.kind == "separation"]

    @property
    def first(self) -> Event | None:
        """Return the first break that reached a weight, else the first separation or randomness that did not."""
        reached = self.reached
        operations = [event for event in self.events if event.kind in ("separation", "randomness")]
        arrived = [event for event in self.events if event.kind == "values" and event.number in reached]
        return next(iter([*(event for event in operations if event.number in reached), *arrived, *operations]), None)

    @property
    def cause(self) -> Event | None:
        """Return the first break that reached a weight, initial weights excepted; None without one."""
        reached = self.reached
        found = (event for event in self.events if event.number in reached and event.kind in BREAKS)
        return next((event for event in found if event.operation != INITIAL), None)

    @property
    def reached(self) -> set[int]:
        """Return the numbers of the events that reached a weight."""
        return {event.number for change in self.changes for event in change.causes}

    @property
    def note(self) -> str:
        """Return the compiled modules in words, with a space before; empty without one."""
        return f" ({', '.join(self.compiled)}: a compiled region is one operation)" if self.compiled else ""

    def drop_unreached(self) -> None:
        """Drop events that reached no weight, except separations and randomness."""
        reached = self.reached
        self.events = [
            event for event in self.events if event.kind in ("separation", "randomness") or event.number in reached
        ]

    def by_layer(self) -> dict[str, Event]:
        """Return the first break that reached each changed weight, by name."""
        found: dict[str, Event] = {}
        for change in self.changes:
            if change.cause is not None:
                known = found.setdefault(change.weight, change.cause)
                found[change.weight] = min(known, change.cause, key=lambda event: event.number)
        return found

    def __str__(self) -> str:
        """Return the verdict in one sentence."""
        note = self.note
        first = self.first
        if first is not None and not (self.initial and first.kind == "values"):
            return f"symmetry broke at step {first.step}: {first}{note}"
        if self.initial:
            return f"weights differed at the start: {', '.join(self.initial)}{note}"
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        return f"no operation separated identical channels in {steps} ({self.operations} operations checked){note}"


def _number(value: float) -> str:
    return f"{value:.3g}"
