"""One driver per sweep."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.process import identity

FILE = "driver.lock"


@contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Lock a sweep's folder, created if needed, against other drivers; the lock ends with this process.

    Raises:
        UsageError: If another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another driver runs this sweep: {_holder(folder)}; wait for it, or stop it") from None
        except OSError as error:
            raise UsageError(f"{folder}: its file system has no locks ({error.strerror}); choose another") from error
        file.truncate(0)
        file.write(json.dumps(identity()))
        file.flush()
        yield


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return f"it holds {folder / FILE}"
