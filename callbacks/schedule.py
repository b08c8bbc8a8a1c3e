"""Measurement schedule."""

import math


class Schedule:
    """Schedule measurements every n steps, or log-spaced: every step at first, then a fixed number per doubling.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule.
        per_doubling: measurements between steps t and 2t of the log-spaced schedule.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, every_n_steps: int | None = None, per_doubling: int = 16) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"every_n_steps must be at least 1, or None for a log-spaced schedule, got {every_n_steps}"
            )
        if per_doubling < 1:
            raise ValueError(f"per_doubling must be at least 1, got {per_doubling}")
        self.every_n_steps = every_n_steps
        self.per_doubling = per_doubling

    def is_due(self, step: int, previous: int | None) -> bool:
        """Return whether a measurement is due in (``previous``, ``step``]; always True if ``previous`` is None."""
        return previous is None or self._index(step) > self._index(previous)

    def _index(self, step: int) -> int:
        if self.every_n_steps is not None:
            return step // self.every_n_steps
        return math.floor(self.per_doubling * math.log2(step + 1))
