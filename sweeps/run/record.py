"""Read a run folder into memory as a `Run`, or as `Skipped` with the reason."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from symbreak.sweeps.run.folder import CONFIG, DAMAGED, HISTORY, POINT, STATE, SUMMARY, flatten, read_json, status

RUN_FILES = (STATE, CONFIG, HISTORY, POINT)
"""A folder that contains one of these files is a run folder."""

CALLBACKS = "trainer.callbacks"

# The C loader is the same safe loader, about ten times faster.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """The content of one run folder.

    Attributes:
        name: The folder's name (or the W&B run's name).
        folder: Where it was read from.
        status: As returned by :func:`symbreak.sweeps.run.folder.status`, or ``damaged``.
        config: Resolved configuration, as returned by :func:`settings`.
        summary: Last value of each key.
        history: One row per step (the index), one float column per key, NaN where nothing was logged.
        meta: Contents of run.json: times, command, code, output layers, environment, switches.
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
    """A run folder that is left out of the figures, with the reason."""

    name: str
    folder: str
    reason: str
    detail: str = ""


def read_run(folder: Path) -> Run | Skipped:
    """Read one run folder; never raise because of its content."""
    try:
        return _read(folder)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        return Skipped(folder.name, str(folder), f"unreadable: {_first_line(error)}", str(error))


def _read(folder: Path) -> Run | Skipped:
    meta, point, summary = (read_json(folder / name) for name in (STATE, POINT, SUMMARY))
    if meta.get("status") == "failed":
        return Skipped(folder.name, str(folder), "the run failed", _text(meta.get("error")))
    missing = [name for name in (CONFIG, HISTORY) if not (folder / name).is_file()]
    if missing and meta.get("status") == "finished":
        return Skipped(folder.name, str(folder), f"finished, but {' and '.join(missing)} is lost")
    if missing:
        return Skipped(folder.name, str(folder), f"nothing to show yet: no {' and no '.join(missing)}")
    config = yaml.load((folder / CONFIG).read_bytes(), _YAML_LOADER)
    if not isinstance(config, dict):
        return Skipped(folder.name, str(folder), "unreadable: config.yaml holds no mapping")
    history = read_history(folder / HISTORY)
    if history.empty:
        return Skipped(folder.name, str(folder), "nothing to show yet: metrics.csv has no complete row")
    return Run(
        folder.name,
        str(folder),
        DAMAGED if meta.get("status") == "finished" and not summary else status(folder, meta),
        settings(config),
        summary | last_values(history) | summary,
        history,
        meta,
        point,
    )


def read_history(path: Path) -> pd.DataFrame:
    """Read a metrics.csv that may still be growing.

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
    except ValueError:  # a non-numeric cell: read as text, and convert such cells to NaN
        text = pd.read_csv(io.BytesIO(raw), dtype=str, on_bad_lines="skip", encoding_errors="replace")
        return text.apply(pd.to_numeric, errors="coerce").astype("float64")


def last_values(history: pd.DataFrame) -> dict[str, float]:
    """Return the last value of each key that has one."""
    values = history.to_numpy()
    known = np.asarray(~np.isnan(values))
    rows = len(values) - 1 - known[::-1].argmax(axis=0)
    last = values[rows, np.arange(values.shape[1])]
    return {str(key): float(value) for key, value in zip(history, last, strict=True) if not np.isnan(value)}


def settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config under dotted keys, so that every value can be compared and counted.

    Callbacks come under ``trainer.callbacks.<class>``, other lists as JSON text.
    """
    flat = flatten(tree)
    if isinstance(flat.get(CALLBACKS), list):
        flat |= flatten(_by_class(flat.pop(CALLBACKS)), f"{CALLBACKS}.")
    return {
        key: json.dumps(value, default=str) if isinstance(value, (list, tuple, Mapping)) else value
        for key, value in flat.items()
    }


def _by_class(callbacks: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in callbacks:
        entry = each if isinstance(each, Mapping) else {"class_path": each}
        name = str(entry.get("class_path")).rsplit(".", 1)[-1]
        found[f"{name}-{len(found) + 1}" if name in found else name] = entry.get("init_args") or True
    return found


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
