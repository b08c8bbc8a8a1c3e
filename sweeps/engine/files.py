"""JSON records whose failed writes are retried."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from symbreak.sweeps.run.folder import write_json

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class PatientFiles:
    """Writer of JSON files that keeps failed writes and retries them with increasing delays.

    Args:
        say: Called with one line when writing begins to fail, and one when it works again.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._pending: dict[Path, dict[str, Any]] = {}
        self._pause, self._next_try, self._failing = FIRST_PAUSE, 0.0, False

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """Write a file now or, after an OSError, at a later `flush`."""
        self._pending[path] = copy.deepcopy(content)
        self.flush()

    def flush(self, at_once: bool = False) -> bool:
        """Write pending files unless a retry delay is running; return whether none is left and writing works."""
        if not at_once and time.monotonic() < self._next_try:
            return False
        for path in list(self._pending):
            try:
                write_json(path, self._pending[path])
            except OSError as error:
                self.failed(path, error)
                return False
            del self._pending[path]
        if self._failing:
            self.say("Writing works again.")
        self._pause, self._failing = FIRST_PAUSE, False
        return True

    def failed(self, path: Path, error: OSError) -> None:
        """Record a failed write and the time of the next attempt."""
        if not self._failing:
            self.say(f"{path} cannot be written: {error.strerror}. Runs go on; it is tried again.")
        self._failing, self._next_try = True, time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def unwritten(self) -> list[Path]:
        """Return the files that are not written yet."""
        return list(self._pending)
