"""The sweep's metric of one run, from its folder or from W&B's offline run in it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from symbreak.sweeps.run.folder import SUMMARY, read_json


def metric_value(folder: Path, name: str) -> float | None:
    """Return the last value of a metric, None where the run did not log it as a finite number."""
    if not name:
        return None
    summary = read_json(folder / SUMMARY)
    return _number(summary[name] if name in summary else _offline_summary(folder).get(name))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _offline_summary(folder: Path) -> dict[str, Any]:
    logs = sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return {}
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(logs[-1])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(result.stdout).get("summary", {})
    except ValueError:
        return {}
