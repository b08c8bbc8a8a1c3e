"""Runs of a W&B project, in the form of run folders."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.record import Run, Skipped, last_values, settings

PREFIX = "wandb:"
STEP = "trainer/global_step"
_FAILED = ("failed", "crashed")


def read_project(project: str) -> list[Run | Skipped]:
    """Read all runs of ENTITY/PROJECT through W&B's public API.

    Raises:
        UsageError: If the project cannot be read.
    """
    import wandb

    try:
        runs = list(wandb.Api().runs(project))
    except (wandb.Error, ValueError) as error:
        raise UsageError(f"cannot read the W&B project {project}: {error}") from error
    return [read_online(run) for run in runs]


def read_online(run: Any) -> Run | Skipped:
    """Return a `wandb.apis.public.Run` as a `Run`; failed and empty ones as `Skipped`."""
    if run.state in _FAILED:
        return Skipped(run.name, run.url, f"the run {run.state}")
    history = online_history(run.scan_history())
    if history.empty:
        return Skipped(run.name, run.url, "nothing to show yet: no history")
    config = settings({key: value for key, value in run.config.items() if not key.startswith("_")})
    summary = {key: value for key, value in dict(run.summary).items() if isinstance(value, (int, float, str))}
    meta = {"command": [str(word) for word in (run.metadata or {}).get("args", [])], "git": {"commit": run.commit}}
    return Run(
        run.name,
        run.url,
        run.state,
        config,
        summary | last_values(history) | summary,
        history,
        meta,
        {"arm": run.group},
    )


def online_history(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return history rows as one row per optimiser step and a float column per numeric key."""
    numeric = [{key: value for key, value in row.items() if isinstance(value, (int, float))} for row in rows]
    frame = pd.DataFrame(numeric, dtype="float64")
    step = next((name for name in (STEP, "_step") if name in frame), None)
    if step is None:
        return pd.DataFrame()
    frame = frame.dropna(subset=step)
    index = pd.Index(frame[step].astype("int64"), name="step")
    kept = frame[[key for key in frame if not str(key).startswith("_") and key != STEP]].set_axis(index, axis=0)
    return kept.groupby(level=0).last()
