"""One run folder on disk -> one `Run` in memory, or the reason why not."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

RUN_FILES = ("run.json", "config.yaml", "metrics.csv", "point.json")
SILENT_AFTER = 600.0
"""Seconds without a write after which a run that still calls itself running is called silent."""

# The C loader is the same safe loader, about ten times faster.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    Attributes:
        name: The folder's name (or the W&B run's name).
        folder: Where it was read from.
        status: running, silent, finished, failed, interrupted, preempted or unknown.
        config: Resolved configuration, dotted key -> value.
        summary: Last value of each key.
        history: One row per step (the index), one float column per key, NaN where nothing was logged.
        meta: Contents of run.json: times, command, versions, device.
        point: Contents of point.json, empty outside a sweep.
    """

    name: str
    folder: str
    status: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    point: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """A run folder that is left out of the figures, and why."""

    name: str
    folder: str
    reason: str
    detail: str = ""


def read_run(folder: Path) -> Run | Skipped:
    """Reads one run folder; never raises for what is in it."""
    try:
        return _read(folder)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        return Skipped(folder.name, str(folder), f"unreadable: {_first_line(error)}", str(error))


def _read(folder: Path) -> Run | Skipped:
    meta, point, summary = (_read_json(folder / name) for name in ("run.json", "point.json", "summary.json"))
    if meta.get("status") == "failed":
        return Skipped(folder.name, str(folder), "the run failed", _text(meta.get("error")))
    missing = [name for name in ("config.yaml", "metrics.csv") if not (folder / name).is_file()]
    if missing:
        return Skipped(folder.name, str(folder), f"nothing to show yet: no {' and no '.join(missing)}")
    config = yaml.load((folder / "config.yaml").read_bytes(), _YAML_LOADER)
    if not isinstance(config, dict):
        return Skipped(folder.name, str(folder), "unreadable: config.yaml holds no mapping")
    history = read_history(folder / "metrics.csv")
    if history.empty:
        return Skipped(folder.name, str(folder), "nothing to show yet: metrics.csv has no complete row")
    status = _status(meta, folder / "metrics.csv")
    return Run(
        folder.name,
        str(folder),
        status,
        flatten(config),
        summary | last_values(history) | summary,
        history,
        meta,
        point,
    )


def _status(meta: dict[str, Any], metrics: Path) -> str:
    status = str(meta.get("status", "unknown"))
    if status == "running" and time.time() - metrics.stat().st_mtime > SILENT_AFTER:
        return "silent"
    return status


def read_history(path: Path) -> pd.DataFrame:
    """Reads a metrics.csv that may still be growing.

    A last line without a line break is a torn write and is dropped: its last number may be cut short.
    Rows of the same step are merged; of two values for one key and step the later one counts.
    """
    raw = path.read_bytes()
    raw = raw[: raw.rfind(b"\n") + 1]
    if not raw.strip():
        return pd.DataFrame()
    frame = _parse(raw)
    if "step" not in frame:
        raise ValueError("metrics.csv has no column `step`")
    frame = frame[np.isfinite(frame["step"])]
    merged = frame.set_index(frame["step"].astype("int64")).drop(columns="step")
    return merged.groupby(level=0).last() if merged.index.has_duplicates else merged.sort_index()


def _parse(raw: bytes) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(raw), dtype="float64", on_bad_lines="skip")
    except ValueError:  # a cell that is no number: read as text, and what is no number becomes NaN
        text = pd.read_csv(io.BytesIO(raw), dtype=str, on_bad_lines="skip", encoding_errors="replace")
        return text.apply(pd.to_numeric, errors="coerce").astype("float64")


def last_values(history: pd.DataFrame) -> dict[str, float]:
    """The last value of each key that has one."""
    values = history.to_numpy()
    known = np.asarray(~np.isnan(values))
    rows = len(values) - 1 - known[::-1].argmax(axis=0)
    last = values[rows, np.arange(values.shape[1])]
    return {str(key): float(value) for key, value in zip(history, last, strict=True) if not np.isnan(value)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys; lists become their JSON text, so that every value can be compared."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple, Mapping)):
            yield f"{prefix}{key}", json.dumps(value, default=str)
        else:
            yield f"{prefix}{key}", value


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or torn, since a run can do without it."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
