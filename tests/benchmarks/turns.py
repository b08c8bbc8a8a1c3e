"""Training loops that take turns: each runs a number of steps and waits, so that all see the same machine.

They are coroutines of one thread: threads of their own would each bring a pool of OpenMP workers, more than there are
cores.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from greenlet import getcurrent, greenlet

Contender = Callable[[Callable[[], bool]], None]
"""A loop that calls its argument before each step, and ends when that returns False."""


class _Runner:
    """One loop, which goes on only while its turn lasts."""

    def __init__(self, loop: Contender, steps: int) -> None:
        self._steps, self._left, self._ends = steps, 0, False
        self._caller, self._loop = getcurrent(), greenlet(loop)
        self._loop.switch(self._tick)  # returns when the loop stands before its first step

    def turn(self) -> None:
        """Let the loop take its steps; returns when it stands before the next one."""
        self._left = self._steps
        self._loop.switch()

    def end(self) -> None:
        """Let the loop come to its end."""
        self._ends = True
        while not self._loop.dead:
            self._loop.switch()

    def _tick(self) -> bool:
        if self._left == 0:
            self._caller.switch()
        self._left -= 1
        return not self._ends


@contextmanager
def take_turns(loops: dict[str, Contender], steps: int) -> Iterator[dict[str, Callable[[], None]]]:
    """Start the loops; yields for each a function that lets it take ``steps`` steps."""
    runners = {name: _Runner(loop, steps) for name, loop in loops.items()}
    try:
        yield {name: runner.turn for name, runner in runners.items()}
    finally:
        for runner in runners.values():
            runner.end()
