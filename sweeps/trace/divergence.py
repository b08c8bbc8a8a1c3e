"""The first operation whose bits differ between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from symbreak.callbacks.tracing.recorder import Recorded
from symbreak.sweeps.trace.recording import Recording, record

TRIES = 3


@dataclass(frozen=True)
class Divergence:
    """The first difference between two runs.

    Args:
        kind: `operation`: equal inputs, different outputs; `random`: the same, caused by random numbers; `values`:
            different inputs that no operation computed; `structure`: different operations; `weights`: different initial
            weights; `unknown`: the step that differed was equal in all later runs; `none`.
        step: Number of updates after which weights can differ.
        operations: Number of operations that were compared.
        steps: Number of updates whose weights were compared.
        index: Position of the operation in its step.
        one: The operation in the first run.
        other: The operation in the second run.
    """

    kind: Literal["operation", "random", "values", "structure", "weights", "unknown", "none"]
    step: int
    operations: int
    steps: int
    index: int = 0
    one: Recorded | None = None
    other: Recorded | None = None

    def __str__(self) -> str:
        if self.kind == "none":
            return f"no divergence in {self.steps} steps ({self.operations} operations compared)"
        if self.kind == "weights" or self.one is None:
            reason = "the initial weights" if self.kind == "weights" else "the weights, but in no later pair of runs"
            return f"runs diverged at step {self.step}: {reason}"
        name = f"{self.one.operation}, {self.one.outputs}, {self.one.place}"
        if self.kind == "structure":
            other = "nothing" if self.other is None else f"{self.other.operation}, {self.other.outputs}"
            return (
                f"runs diverged at step {self.step}: operation {self.index} is {name} in one and {other} in the other"
            )
        reason = {
            "operation": f"its inputs are equal{' on this rank' if self.one.operation.startswith('c10d::') else ''}",
            "random": "its inputs are equal, it draws random numbers",
            "values": "its inputs differ, and no operation made them",
        }[self.kind]
        return f"runs diverged at step {self.step}: {name}: {reason}"


def compare(one: Recording, other: Recording) -> Divergence:
    """Return the first difference between two recordings, in the steps whose operations both hold."""
    steps = min(len(one.weights), len(other.weights)) - 1
    if one.weights[:1] != other.weights[:1]:
        return Divergence("weights", 0, 0, steps)
    compared = 0
    for step in sorted(one.steps.keys() & other.steps.keys()):
        found = _first_difference(one.steps[step], other.steps[step])
        compared += len(one.steps[step]) if found is None else found[0]
        if found is not None:
            index, kind, a, b = found
            return Divergence(kind, step + 1, compared, steps, index, a, b)
    differing = first_differing(one, other)
    if differing is not None:
        return Divergence("unknown", differing, compared, steps)
    return Divergence("none", steps, compared, steps)


Difference = tuple[int, Literal["operation", "random", "values", "structure"], Recorded, Recorded | None]


def _first_difference(one: Sequence[Recorded], other: Sequence[Recorded]) -> Difference | None:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if (a.operation, a.outputs) != (b.operation, b.outputs):
            return index, "structure", a, b
        if a.read != b.read:
            return index, "values", a, b
        if a.made != b.made:
            return index, "random" if a.random else "operation", a, b
    if len(one) > len(other):
        return len(other), "structure", one[len(other)], None
    if len(other) > len(one):
        return len(one), "structure", other[len(one)], None
    return None


def first_differing(one: Recording, other: Recording) -> int | None:
    """Return the number of updates after which weights first differ."""
    pairs = enumerate(zip(one.weights, other.weights, strict=False))
    return next((step for step, (a, b) in pairs if a != b), None)


def repeat(fit: Sequence[str], folder: Path, traced: int) -> Divergence:
    """Run a config twice, each in a process of its own, and find the first operation whose bits differ.

    The first pair of runs compares a hash of the weights after every update, and the operations of the first steps. If
    weights differ later than that, further pairs record the operations of the step that differed.

    Args:
        fit: Options of ``symbreak fit``.
        folder: Receives the runs' folders.
        traced: Number of first steps whose operations are compared in the first pair.
    """
    first, last = 0, traced
    found = None
    for turn in range(TRIES):
        one, other = (record(fit, folder / f"run_{turn}{side}", first, last) for side in "ab")
        found = compare(one, other)
        if found.kind != "unknown":
            return found
        first, last = found.step - 1, found.step
    assert found is not None
    return found
