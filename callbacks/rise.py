"""The part of a curve that its growth rate is read from, kept small however long the run."""

from collections.abc import Sequence
from typing import Any

from symbreak.callbacks.functional import Growth, growth

LOW, HIGH = 1e-6, 1e-2
CAPACITY = 4096


class Rise:
    """Remembers a curve since it was last below ``LOW``, and reports its growth when it passes ``HIGH``.

    A rise of more than ``CAPACITY`` measurements is thinned to every other one.
    """

    def __init__(self, steps: Sequence[int] = (), values: Sequence[float] = ()) -> None:
        self._steps, self._values = list(steps), list(values)

    def add(self, step: int, value: float) -> Growth | None:
        """Appends a measurement; returns the growth if a rise ends with it."""
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
        """The arguments that make an equal object."""
        return {"steps": list(self._steps), "values": list(self._values)}
