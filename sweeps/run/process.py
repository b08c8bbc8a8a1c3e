"""Which process a run is, so that a reader can tell whether it still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def started(pid: int) -> str | None:
    """Return when a process on this machine began, in a form to compare only, or None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]  # a process that has ended and waits for its parent is gone
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return None if Path("/proc/self/stat").exists() else "unknown"


def identity() -> dict[str, Any]:
    """Return what tells this process from every other: host, process id, and when it began."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}


def is_alive(process: Any) -> bool | None:
    """Return whether the process of an `identity` still runs; None where it was on another machine, or is not known."""
    if not isinstance(process, Mapping) or process.get("host") != socket.gethostname():
        return None
    pid = process.get("pid")
    return started(pid) == process.get("started") if isinstance(pid, int) and pid > 0 else None
