"""Put run folders (or W&B runs) into one tidy table: a row per run, and a history row per run and step."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.report.arms import arm_labels, varying_keys
from symbreak.sweeps.run.folder import SUMMARY
from symbreak.sweeps.run.outcome import Outcome, outcome_of
from symbreak.sweeps.run.record import RUN_FILES, Run, Skipped, read_run

PRUNED_FOLDERS = frozenset({"wandb", "checkpoints"})
ACCURACY_KEYS = ("test/accuracy", "val/accuracy", "train/accuracy")
SPLITS = {"train": "training", "val": "validation", "test": "test"}
_AGAIN = re.compile(r"\.again(\d+)$")
CHANGING = ("running", "silent")
"""Statuses that can change although no file changes."""


@dataclass(frozen=True, eq=False)
class RunTable:
    """All runs of a report.

    Attributes:
        runs: One row per run: run, arm, status, seed, folder, then every configuration key (dotted) and every
            summary key (with slashes). Only for display and export: pandas turns None into NaN and integers into
            floats, so read settings from `configs`.
        history: One row per run and step: `run` (row number in `runs`), `step`, one float column per logged key.
        varying: Configuration keys in which the arms differ.
        configs: Resolved configuration of each run under dotted keys, in the order of `runs`.
        meta: run.json of each run.
        outcomes: Outcome of each run, as the terminal shows it.
        skipped: Folders left out, with the reason.
    """

    runs: pd.DataFrame
    history: pd.DataFrame
    varying: list[str] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """Return the labels of the arms in the order of their first run."""
        return list(dict.fromkeys(self.runs["arm"])) if len(self.runs) else []

    def has(self, key: str) -> bool:
        """Return whether any run logged the key."""
        return key in self.history and bool(self.history[key].notna().any())

    def layers(self, measure: str) -> list[str]:
        """Return the layers for which `<measure>/<layer>` was logged, in the order of the first run's summary."""
        keys = [str(key) for key in self.runs if str(key).startswith(f"{measure}/") and key in self.history]
        return [key[len(measure) + 1 :] for key in keys]

    def series(self, key: str) -> pd.DataFrame:
        """Return one key in long form: columns run, arm, step, value, without steps at which it was not logged."""
        columns = {"run": self.history["run"], "step": self.history["step"], "value": self.history[key]}
        frame = pd.DataFrame(columns).dropna(subset="value")
        return frame.assign(arm=self.runs["arm"].to_numpy()[frame["run"]])

    def event(self, name: str) -> pd.Series:
        """Return a numeric field of each run's `Outcome`, NaN where it is None."""
        return pd.Series([getattr(outcome, name) for outcome in self.outcomes], self.runs.index, dtype="float64")

    def final(self, key: str) -> pd.Series:
        """Return the final value of a key per run, NaN where unknown; finished runs take precedence within an arm."""
        if key not in self.runs:
            return pd.Series(np.nan, index=self.runs.index)
        values = pd.to_numeric(self.runs[key], errors="coerce")
        finished = self.runs["status"].eq("finished") & values.notna()
        has_finished = finished.groupby(self.runs["arm"]).transform("any")
        return values.where(finished | ~has_finished)


def final_accuracy_key(table: RunTable) -> str | None:
    """Return the key of the runs' accuracy: test, else validation, else training."""
    return next((key for key in ACCURACY_KEYS if table.final(key).notna().any()), None)


def split_name(key: str) -> str:
    """Return the split of a key in full words: `val/accuracy` gives `validation`."""
    return SPLITS.get(key.split("/")[0], key)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders at or below the given folders, each once, in natural order (2 before 10).

    Raises:
        UsageError: If a path is not a folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder of runs")
        for folder, children, files in os.walk(path):
            if any(name in files for name in RUN_FILES):
                found[Path(folder).resolve()] = None
                children.clear()
            children[:] = sorted((c for c in children if c not in PRUNED_FOLDERS), key=_natural)
    return list(found)


def _natural(name: str) -> tuple[int, int, str]:
    number = name.split("-", 1)[0]
    return (0, int(number), name) if number.isdecimal() else (1, 0, name)


class RunReader:
    """Read run folders and cache unchanged ones, for a view that is refreshed."""

    def __init__(self, read: Callable[[Path], Run | Skipped] = read_run) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple, Run | Skipped]] = {}

    def read(self, paths: Sequence[Path]) -> list[Run | Skipped]:
        """Read every run folder at or below the given paths."""
        return [self._read_one(folder) for folder in find_runs(paths)]

    def _read_one(self, folder: Path) -> Run | Skipped:
        stamp = tuple(_stamp(folder / name) for name in (*RUN_FILES, SUMMARY))
        known = self._known.get(folder)
        if known and known[0] == stamp and getattr(known[1], "status", "") not in CHANGING:
            return known[1]
        result = self._read(folder)
        self._known[folder] = (stamp, result)
        return result


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return (0, 0)
    return (state.st_mtime_ns, state.st_size)


def load_runs(paths: Sequence[Path]) -> RunTable:
    """Read every run folder at or below the given folders into one table."""
    return tabulate(RunReader().read(paths))


def tabulate(results: Sequence[Run | Skipped]) -> RunTable:
    """Put runs into one table and name their arms."""
    results = last_attempts(results)
    runs = [result for result in results if isinstance(result, Run)]
    skipped = [result for result in results if isinstance(result, Skipped)]
    configs = [run.config for run in runs]
    labels = arm_labels(configs, [run.point.get("arm") for run in runs])
    rows = [_row(run, label) for run, label in zip(runs, labels, strict=True)]
    frame = pd.DataFrame(rows, columns=None if rows else ["run", "arm", "status", "seed", "folder"])
    return RunTable(
        runs=frame,
        history=_stack([run.history for run in runs]),
        varying=varying_keys(configs),
        configs=configs,
        meta=[run.meta for run in runs],
        outcomes=[outcome_of(run) for run in runs],
        skipped=skipped,
    )


def last_attempts(results: Sequence[Run | Skipped]) -> list[Run | Skipped]:
    """Leave out all but one of the runs whose folders are attempts of one point: NAME, NAME.again2, ...

    The latest finished attempt counts, else the latest. A sweep starts again in a new folder where an attempt cannot
    resume, or where the record of its point is damaged.
    """
    groups: dict[str, list[Run]] = {}
    for result in results:
        if isinstance(result, Run):
            groups.setdefault(_AGAIN.sub("", result.folder), []).append(result)
    chosen = {folder: max(group, key=_rank) for folder, group in groups.items()}
    return [
        result
        if isinstance(result, Skipped) or (other := chosen[_AGAIN.sub("", result.folder)]) is result
        else Skipped(result.name, result.folder, f"the point counts once, as {other.name}")
        for result in results
    ]


def _rank(run: Run) -> tuple[bool, int]:
    """Return the order of attempts: finished ones last, then by number."""
    again = _AGAIN.search(run.folder)
    return run.status == "finished", int(again[1]) if again else 1


def _row(run: Run, label: str) -> dict[str, Any]:
    seed = run.config.get("seed_everything")
    own = {"run": run.name, "arm": label, "status": run.status, "seed": seed, "folder": run.folder}
    return run.config | run.summary | {"step": int(run.history.index[-1])} | own


def _stack(histories: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not histories:
        return pd.DataFrame({"run": pd.Series(dtype="int64"), "step": pd.Series(dtype="int64")})
    codes = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    stacked = pd.concat(histories)
    index = pd.DataFrame({"run": codes, "step": stacked.index.to_numpy()})
    return pd.concat([index, stacked.reset_index(drop=True)], axis=1)


def save(table: RunTable, path: Path) -> list[Path]:
    """Write the runs to `path` and the history beside it (`NAME-history`), as CSV or Parquet by the suffix.

    Raises:
        UsageError: If the suffix is neither .csv nor .parquet, or pyarrow is missing for Parquet.
    """
    beside = path.with_name(f"{path.stem}-history{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    named = table.history.assign(run=table.runs["run"].to_numpy()[table.history["run"]] if len(table.runs) else [])
    for frame, target in ((table.runs, path), (named, beside)):
        if path.suffix == ".csv":
            frame.to_csv(target, index=False)
        elif path.suffix == ".parquet":
            _to_parquet(frame, target)
        else:
            raise UsageError(f"{path}: the table is written as .csv or .parquet")
    return [path, beside]


def _to_parquet(frame: pd.DataFrame, path: Path) -> None:
    mixed = [key for key in frame if frame[key].dtype == object]
    try:
        frame.astype(dict.fromkeys(mixed, "string")).to_parquet(path, index=False)
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install pyarrow") from error
