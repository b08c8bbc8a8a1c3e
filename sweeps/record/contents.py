"""Tables and provenance of a record, made of the report's table of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from symbreak.sweeps.paths import shipped_sweep
from symbreak.sweeps.report.equivalent_noise import noise_laws
from symbreak.sweeps.report.provenance import command_line, commands, provenance
from symbreak.sweeps.report.table import RunTable
from symbreak.sweeps.run.folder import POINT, SWEEP, active_seconds, read_json
from symbreak.sweeps.run.provenance import code_state

FIRST = ("run", "arm", "status", "seed", "step")
DIGITS = "%.6g"
MAX_POINTS = 256
"""Maximum number of steps that are kept of each key of a run."""


def is_summary_key(key: str) -> bool:
    """Return whether a key is logged for the whole network, not for one layer."""
    return key.count("/") == 1


def runs_frame(table: RunTable) -> pd.DataFrame:
    """Return one row per run: its arm and seed, the configuration that varies, its outcome, and its training time.

    Keys of single layers are left out; ``distinct_filters`` sums them up in words. ``seconds`` is the time of all
    attempts together, without the pauses between them; NaN where it is not recorded.
    """
    keys = [str(key) for key in table.runs if is_summary_key(str(key))]
    kept = [key for key in (*FIRST, *table.varying, *sorted(keys)) if key in table.runs]
    frame = table.runs[list(dict.fromkeys(kept))].dropna(axis=1, how="all")
    seconds = [
        active_seconds(Path(folder), meta) for folder, meta in zip(table.runs["folder"], table.meta, strict=True)
    ]
    filters = [outcome.cells()["distinct filters"] for outcome in table.outcomes]
    return frame.assign(distinct_filters=filters, seconds=pd.Series(seconds, frame.index, dtype="float64"))


def history_frame(table: RunTable, points: int = MAX_POINTS) -> pd.DataFrame:
    """Return the history in long form (run, key, step, value), each key of a run thinned to so many steps.

    The first and the last step are kept, and those between at equal distances in the order in which they were logged.
    Keys of single layers are left out.
    """
    keys = [str(key) for key in table.history if is_summary_key(str(key))]
    names = table.runs["run"]
    parts = []
    for key in sorted(keys):
        series = table.series(key)
        for run, rows in series.groupby("run", sort=False):
            kept = rows.iloc[_spread(len(rows), points)]
            parts.append(pd.DataFrame({"run": names[run], "key": key, "step": kept["step"], "value": kept["value"]}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", "key", "step", "value"])


def _spread(count: int, points: int) -> list[int]:
    if count <= points:
        return list(range(count))
    return sorted({round(i * (count - 1) / (points - 1)) for i in range(points)})


def equivalents_frame(table: RunTable) -> pd.DataFrame:
    """Return the equivalent noise of each source, in the terms of `Equivalent`; empty without a noise law."""
    columns = ["label", "arm", "step", "scale", "low", "high", "runs", "not_escaped"]
    rows = [
        (law.setting, *(getattr(each, key) for key in columns)) for law in noise_laws(table) for each in law.sources
    ]
    return pd.DataFrame(rows, columns=["setting", *columns])


def command_of(table: RunTable) -> str:
    """Return the commands that made the runs: those of their sweeps, and for each run outside a sweep its own."""
    runs = zip(table.runs["folder"], table.meta, strict=True)
    return "; ".join(dict.fromkeys(_command(Path(folder), meta) for folder, meta in runs))


def _command(folder: Path, meta: Mapping[str, Any]) -> str:
    sweep = read_json(folder / POINT).get("sweep")
    file = read_json(folder.parent / SWEEP).get("file")
    if sweep and not file and shipped_sweep(str(sweep)).is_file():  # a sweep from before sweep.json named the file
        file = sweep
    own = meta.get("command") or ["unknown"]
    return command_line(["symbreak", "sweep", file] if sweep and file else own)


def provenance_of(table: RunTable, command: str, seconds: pd.Series) -> dict[str, Any]:
    """Return what made the runs: command, code, versions, hardware, settings that all share, and times.

    Args:
        table: The runs.
        command: Command that made them.
        seconds: Time of each run, as in `runs_frame`.
    """
    counts = Counter(table.runs["status"])
    items: dict[str, dict[str, int]] = {}
    for item, value, runs in provenance(table):
        items.setdefault(item, {})[value] = runs
    times = [str(meta[key]) for meta in table.meta for key in ("started", "ended") if meta.get(key)]
    return {
        "command": command,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "recorded_by": code_state(),
        "runs": dict(counts),
        "first_started": min(times, default=None),
        "last_ended": max(times, default=None),
        "seconds_of_all_runs": round(float(seconds.sum()), 1) if seconds.notna().any() else None,
        "items": items,
        "settings": _common_settings(table),
        "left_out": [{"run": each.name, "reason": each.reason} for each in table.skipped],
        "first_run": next(iter(commands(table)), None),
    }


def _common_settings(table: RunTable) -> dict[str, Any]:
    first = table.configs[0] if table.configs else {}
    return {
        key: value
        for key, value in first.items()
        if value is not None
        and not key.startswith("run.")
        and all(config.get(key) == value for config in table.configs)
    }
