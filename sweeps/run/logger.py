"""One run, one folder: what a run leaves behind, and the loggers that write it."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from symbreak.sweeps.errors import UsageError

WRITING_SHARE = 0.01
"""Of a run's time, at most: a new key makes Lightning write the whole history again, which grows with the run."""
ENGINE_FILES = {"point.json", "args.json", "log.txt"}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically: a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def default_dir() -> Path:
    """Return the folder of a run whose user names none: ``SYMBREAK_RUN_DIR``, or a fresh one under ``runs/``."""
    if given := os.environ.get("SYMBREAK_RUN_DIR"):
        return Path(given)
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if sweep and run:
        return Path("runs", sweep, run)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    free = (Path("runs", stamp + suffix) for suffix in ["", *(f"-{n}" for n in range(2, 1000))])
    return next(path for path in free if not path.exists())


def claim(path: Path, resume: bool) -> None:
    """Make a run's folder, or refuse one that holds another run.

    Raises:
        UsageError: If the folder holds a run and this one does not go on from a checkpoint.
    """
    if path.is_dir() and not resume and {entry.name for entry in path.iterdir()} - ENGINE_FILES:
        raise UsageError(
            f"run folder {path} already holds a run; choose another --run.dir, "
            f"or go on with it by --ckpt_path={path / 'checkpoints' / 'last.ckpt'}"
        )
    path.mkdir(parents=True, exist_ok=True)


def git_state() -> dict[str, str | bool | None]:
    """Return the commit of the code that runs, and whether files differ from it; None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunLogger(CSVLogger):
    """Lightning's CSV logger with a run's state and its latest values beside the history.

    ``metrics.csv`` is the history; ``summary.json`` the last value of every key (null for NaN and infinity);
    ``run.json`` status, times, command, commit, environment and determinism switches. Files are written about once a
    second and at the end, whatever the number of log calls.

    Args:
        run_dir: The run's folder, already claimed.
        resume_step: The step of the checkpoint that the run goes on from: earlier history is kept, later rows, which
            the run is about to log again, are dropped.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        super().__init__(run_dir, name="", version="")
        self.path = Path(run_dir)
        self.summary: dict[str, Any] = {}
        self._written, self._write_seconds = time.monotonic(), 0.0
        self.state: dict[str, Any] = {
            "status": "running",
            "started": _now(),
            "ended": None,
            "command": ["symbreak", *sys.argv[1:]],
            "error": None,
        }
        self._kept = [] if resume_step is None else self._rows_before(resume_step)

    def _rows_before(self, step: int) -> list[dict[str, Any]]:
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [{k: float(v) for k, v in row.items() if k and v} for row in csv.DictReader(lines)]
        # a checkpoint is saved after the validation of its step, but before the step's own measurements
        kept = [
            row for row in rows if row["step"] < step or (row["step"] == step and any("val/" in key for key in row))
        ]
        return [row | {"step": int(row["step"])} for row in kept]

    @contextmanager
    def run(self) -> Iterator[None]:
        """Note in ``run.json`` how a block of work starts and ends; Ctrl-C ends the process with status 130."""
        self._start()
        try:
            yield
        except SystemExit as error:
            interrupted = isinstance(error.__context__, KeyboardInterrupt)
            self._end("interrupted" if interrupted else "preempted" if error.code == 143 else "failed", str(error))
            raise SystemExit(130 if interrupted else error.code) from error
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise
        self._end("finished")

    @rank_zero_only
    def _start(self) -> None:
        file = self.path / "run.json"
        if file.is_file():
            self.state["started"] = json.loads(file.read_text(encoding="utf-8")).get("started", self.state["started"])
        self.state["git"] = git_state()
        write_json(file, self.state)
        with warnings.catch_warnings():
            # Lightning says that it deletes the old history; what a resumed run needs of it has been read by now
            warnings.simplefilter("ignore")
            self.experiment.metrics.extend(self._kept)
        for row in self._kept:
            self._remember(row)

    @rank_zero_only
    def _end(self, status: str, error: str | None = None) -> None:
        self._write()
        self.state |= {"status": status, "ended": _now(), "error": error}
        write_json(self.path / "run.json", self.state)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Keep what is logged as ``<group>/<name>`` (determinism, environment) in ``run.json``."""
        for key, value in (params or {}).items():
            group, _, name = str(key).partition("/")
            if name:
                self.state.setdefault(group, {})[name] = value
        write_json(self.path / "run.json", self.state)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row to the history and remember its values."""
        row: dict[str, Any] = {key: float(value) for key, value in metrics.items()}
        super().log_metrics(row, step)
        self._remember(row if step is None else row | {"step": step})

    def _remember(self, row: dict[str, Any]) -> None:
        self.summary |= {key: value if math.isfinite(value) else None for key, value in row.items()}

    @rank_zero_only
    def save(self) -> None:
        """Write the files if the last time is a second ago, or longer where writing itself takes long."""
        if time.monotonic() - self._written > max(1.0, self._write_seconds / WRITING_SHARE):
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the files at the end of each of Lightning's stages."""
        self._write()

    def _write(self) -> None:
        started = time.monotonic()
        if self._experiment is not None:
            self._experiment.save()
            write_json(self.path / "summary.json", self.summary)
        self._written = time.monotonic()
        self._write_seconds = self._written - started
