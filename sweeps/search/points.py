"""One point of a sweep: its identity, its arm's label, its run folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from symbreak.sweeps.run.folder import flatten

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        seat: The identity within the sweep: the parameters themselves in a grid, a running number otherwise.
        number: Counts the sweep's points from 1; part of the folder's name.
        parameters: As W&B hands them to a run, nested where the sweep file nests them.
        label: What tells this arm from the others.
    """

    seat: str
    number: int
    parameters: dict[str, Any]
    label: str

    def folder(self, sweep_folder: Path) -> Path:
        """Return the run folder inside the sweep's folder."""
        slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", self.label)[:80].strip("_.")
        return sweep_folder / f"{self.number:03d}-{slug}"


@dataclass(frozen=True)
class Row:
    """A point as the study knows it.

    Attributes:
        point: The point.
        status: waiting, running, finished, pruned or failed.
        value: The sweep's metric, None where it was never logged.
        error: The last error lines of a failed run.
    """

    point: Point
    status: str
    value: float | None = None
    error: str = ""


def identity(parameters: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal parameters and different for different ones."""
    return json.dumps(flatten(parameters), sort_keys=True)


def varying(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys whose value is not the same in every point, in order of appearance."""
    seen: dict[str, set[str]] = {}
    for point in points:
        for key, value in flatten(point).items():
            seen.setdefault(key, set()).add(json.dumps(value))
    return [key for key, values in seen.items() if len(values) > 1]


def label(parameters: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Name an arm by what varies between the points.

    Args:
        parameters: The point's parameters.
        keys: Dotted keys that vary; a `config` counts by the stem of its file, or by what it sets where it is written
            out in flow style, `{...}`.

    Returns:
        Such as `zero_strict` or `init=he, noise_scale=0.001`.
    """
    flat = flatten(parameters)
    parts = []
    for key in keys:
        if key in flat:
            is_config = key.rsplit(".", 1)[-1] == "config" and isinstance(flat[key], str)
            parts.append(_config_label(flat[key]) if is_config else f"{_short(key, keys)}={_text(flat[key])}")
    return ", ".join(parts) or "run"


def _config_label(config: str) -> str:
    if not config.lstrip().startswith("{"):
        return Path(config).stem
    written = yaml.safe_load(config)
    return label(written, list(flatten(written)))


def _short(key: str, keys: Sequence[str]) -> str:
    tail = key.rsplit(".", 1)[-1]
    is_ambiguous = sum(other.rsplit(".", 1)[-1] == tail for other in keys) > 1
    return ".".join(key.split(".")[-2:]) if is_ambiguous else tail


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if IMPORT_PATH.fullmatch(value) else value
    return json.dumps(value)
