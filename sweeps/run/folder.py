"""The run folder: its file names, and readers that accept missing, torn and growing files."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from symbreak.sweeps.run.process import is_alive

CONFIG, HISTORY, SUMMARY, STATE = "config.yaml", "metrics.csv", "summary.json", "run.json"
POINT, ATTEMPTS, ARGUMENTS = "point.json", "attempts.json", "args.json"
SWEEP = "sweep.json"
"""File in the folder above a sweep's runs: its file, method and command."""
LOG, LOCK, TRACEBACK = "log.txt", "run.lock", "traceback.txt"
CHECKPOINTS = "checkpoints"
ENGINE_FILES = {POINT, ATTEMPTS, ARGUMENTS, LOG, LOCK}
"""Files that a sweep writes into a folder before its run starts."""
DAMAGED = "damaged"
"""Status of a run that finished and whose summary is lost or torn."""
SILENT_AFTER = 600.0
"""Seconds without a write after which a run recorded as running counts as silent."""
ERROR_LINES = 8


def now() -> str:
    """Return the time in the format of run folders."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys, as sweeps and W&B name settings; keep empty ones."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty where the file is missing or torn, or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically: a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:  # for example a full disk: remove the partial file
        temporary.unlink(missing_ok=True)
        raise


def read_rows(path: Path) -> Iterator[dict[str, float]]:
    """Yield the rows of a metrics.csv in order, with the cells that hold numbers.

    A last line without a line break is a torn write and is left out: its last number may be cut short.
    """
    try:
        text = path.read_bytes().rpartition(b"\n")[0].decode(errors="replace")
    except OSError:
        return
    try:
        for row in csv.DictReader(text.splitlines()):
            yield {key: number for key, cell in row.items() if key and (number := _number(cell)) is not None}
    except csv.Error:  # the rest is not CSV
        return


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def history(path: Path, key: str) -> list[float]:
    """Return every logged value of a metric, in order, from a run's metrics.csv."""
    return [row[key] for row in read_rows(path) if key in row]


def rows_before(path: Path, step: int) -> list[dict[str, float]]:
    """Return the rows of a history that a run resumed at this step keeps; it logs the later ones again.

    A checkpoint is saved after the validation of its step, but before the step's own measurements.
    """
    rows = [row for row in read_rows(path) if math.isfinite(row.get("step", math.nan))]
    kept = [row for row in rows if row["step"] < step or (row["step"] == step and any("val/" in key for key in row))]
    return [row | {"step": int(row["step"])} for row in kept]


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return a sweep's attempts at a run, oldest first; none for a run outside sweeps."""
    noted = read_json(folder / ATTEMPTS).get("attempts")
    return [each for each in noted if isinstance(each, dict)] if isinstance(noted, list) else []


def status(folder: Path, state: Mapping[str, Any]) -> str:
    """Return a run's status: the recorded one, unless a run recorded as running has been killed or is silent.

    Returns:
        running, finished, failed, interrupted or preempted as recorded; ``pruned`` if its sweep stopped it early;
        ``killed`` if recorded as running and its process on this machine has ended; ``silent`` if it has written
        nothing for `SILENT_AFTER` seconds; ``unknown`` if no status is recorded.
    """
    noted = str(state.get("status", "unknown"))
    if noted != "finished" and (spans := read_attempts(folder)) and spans[-1].get("status") == "pruned":
        return "pruned"
    return _liveness(folder, state) if noted == "running" else noted


def _liveness(folder: Path, state: Mapping[str, Any]) -> str:
    """Return the status of a run that is recorded as running: running, killed or silent."""
    if is_alive(state.get("process")) is False:
        return "killed"
    written = max((path.stat().st_mtime for path in (folder / HISTORY, folder / STATE) if path.is_file()), default=0.0)
    return "silent" if time.time() - written > SILENT_AFTER else "running"


def active_seconds(folder: Path, state: Mapping[str, Any]) -> float | None:
    """Return how long a run has been in progress, without the pauses between a sweep's attempts; None if unknown.

    Args:
        folder: The run folder.
        state: The content of its run.json.
    """
    is_running = state.get("status") == "running" and _liveness(folder, state) == "running"
    last = state.get("ended") or (now() if is_running else None)
    seconds = [_between(each.get("started"), each.get("ended") or last) for each in read_attempts(folder) or [state]]
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def _between(started: Any, ended: Any) -> float | None:
    try:
        return max(0.0, (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds())
    except (TypeError, ValueError):
        return None


def max_steps(folder: Path) -> int | None:
    """Return the step at which a run ends, None if its configuration sets none."""
    last = _trainer(folder).get("max_steps")
    return last if isinstance(last, int) and last > 0 else None


def _trainer(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        stat = path.stat()
        return _trainer_at(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, yaml.YAMLError):  # missing, or partly written
        return {}


@lru_cache(maxsize=1024)
def _trainer_at(path: Path, _time: int, _size: int) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    trainer = content.get("trainer") if isinstance(content, dict) else None
    return trainer if isinstance(trainer, dict) else {}


def fraction(folder: Path) -> float:
    """Return the share of a run that is done, by its steps or else its epochs; 0 where neither limit is known."""
    summary = read_json(folder / SUMMARY)
    last, epochs = max_steps(folder), _trainer(folder).get("max_epochs")
    if last:
        return min((summary.get("step") or 0) / last, 1.0)
    return min((summary.get("epoch") or 0) / epochs, 1.0) if isinstance(epochs, int) and epochs > 0 else 0.0


def last_lines(folder: Path, start: int = 0) -> str:
    """Return a failed run's error: the one in its run.json, else the last lines of its log from byte `start` on."""
    state = read_json(folder / STATE)
    if state.get("error") and (not start or state.get("status") == "failed"):
        return str(state["error"])
    try:
        lines = (folder / LOG).read_bytes()[start:].decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-ERROR_LINES:])


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of a run that was written last, if there is one."""
    return next(iter(checkpoints(folder)), None)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the latest first."""
    found = [path for path in (folder / CHECKPOINTS).glob("*.ckpt") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
