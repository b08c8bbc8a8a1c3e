"""What a run folder says about its run while it runs and afterwards."""

import csv
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

ERROR_LINES = 8


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys, as sweeps and W&B name settings; empty ones stay."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty if it is not there (yet)."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def max_steps(folder: Path) -> int | None:
    """Return the step at which a run ends, None where its configuration does not say."""
    last = _trainer(folder).get("max_steps")
    return last if isinstance(last, int) and last > 0 else None


def _trainer(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        stat = path.stat()
        return _trainer_at(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, yaml.YAMLError):  # not there yet, or half written
        return {}


@lru_cache(maxsize=1024)
def _trainer_at(path: Path, _time: int, _size: int) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    trainer = content.get("trainer") if isinstance(content, dict) else None
    return trainer if isinstance(trainer, dict) else {}


def fraction(folder: Path) -> float:
    """Return the done part of a run by its steps, or by its epochs, or 0 where neither is known."""
    summary = read_json(folder / "summary.json")
    last, epochs = max_steps(folder), _trainer(folder).get("max_epochs")
    if last:
        return min((summary.get("step") or 0) / last, 1.0)
    return min((summary.get("epoch") or 0) / epochs, 1.0) if isinstance(epochs, int) and epochs > 0 else 0.0


def last_lines(folder: Path) -> str:
    """Return a failed run's error: what its run.json says, else the last lines of its log."""
    noted = read_json(folder / "run.json").get("error")
    if noted:
        return str(noted)
    try:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-ERROR_LINES:])


def history(path: Path, key: str) -> list[float]:
    """Return every logged value of a metric, in order, from a run's metrics.csv."""
    try:
        with path.open(newline="") as file:
            return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]
    except (OSError, ValueError):  # not there yet, or a line half written
        return []
