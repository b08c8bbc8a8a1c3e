"""One point of a sweep: its identity, its arm's label, its state."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from symbreak.sweeps.run.folder import flatten

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass
class Point:
    """One point of a sweep and its state.

    Attributes:
        id: The identity within the sweep: the parameters themselves in a grid, the number otherwise.
        number: Position in the sweep, from 1; part of the folder's name.
        parameters: As W&B hands them to a run, nested where the sweep file nests them.
        label: The parameters in which this arm differs from the others.
        folder: Name of the run folder of its latest attempt inside the sweep's folder, empty before the first.
        status: waiting, running, finished, pruned or failed.
        value: The sweep's metric, None if it was not logged.
        error: The last error lines of a failed run.
        draw: Optuna's draw: its own parameters and their distributions as JSON.
        attempts: Start, end and outcome of each attempt in that folder.
    """

    id: str
    number: int
    parameters: dict[str, Any]
    label: str
    folder: str = ""
    status: str = "waiting"
    value: float | None = None
    error: str = ""
    draw: dict[str, Any] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def first_folder(self) -> str:
        """Return the name of the first attempt's run folder."""
        slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", self.label)[:80].strip("_.")
        return f"{self.number:03d}-{slug}"


def identity(parameters: Mapping[str, Any]) -> str:
    """Return a canonical text of the parameters, equal only for equal parameters."""
    return json.dumps(flatten(parameters), sort_keys=True)


def varying(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys whose value is not the same in every point, in order of appearance."""
    seen: dict[str, set[str]] = {}
    for point in points:
        for key, value in flatten(point).items():
            seen.setdefault(key, set()).add(json.dumps(value))
    return [key for key, values in seen.items() if len(values) > 1]


def label(parameters: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Name an arm by the parameters that vary between the points.

    Args:
        parameters: The point's parameters.
        keys: Dotted keys that vary; a `config` is named by the stem of its file, or by its settings if it is written
            in flow style, `{...}`.

    Returns:
        The label, such as `zero_strict` or `init=he, noise_scale=0.001`.
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
