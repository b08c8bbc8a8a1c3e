"""The logger that writes a run's folder: history, latest values and state."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from symbreak.callbacks.monitor import Monitor
from symbreak.sweeps.run.folder import (
    STATE,
    SUMMARY,
    TRACEBACK,
    latest_checkpoint,
    now,
    read_json,
    rows_before,
    write_json,
)
from symbreak.sweeps.run.process import identity
from symbreak.sweeps.run.provenance import code_state
from symbreak.sweeps.run.resume import Origin

INTERRUPTED, PREEMPTED = 128 + signal.SIGINT, 128 + signal.SIGTERM
WRITING_SHARE = 0.01
"""Upper bound on the share of run time spent writing files: a new key rewrites the whole history, which grows."""


class RunLogger(CSVLogger):
    """Lightning's CSV logger that also writes a run's state and its latest values.

    ``metrics.csv`` is the history; ``summary.json`` the last value of every key (null for NaN and infinity);
    ``run.json`` status, process, times, command, version and commit, output layers, environment, determinism switches
    and acceleration. Files are written about once a second and at the end, whatever the number of log calls.

    Args:
        run_dir: The run's folder, already claimed.
        origin: The checkpoint that the run resumes from. The history of its run is kept up to its step; later rows are
            dropped, because they will be logged again. Events (broken step, escape step) come from its state.
    """

    def __init__(self, run_dir: Path, origin: Origin | None = None) -> None:
        super().__init__(run_dir, name="", version="")
        self.path = Path(run_dir)
        self.summary: dict[str, Any] = {}
        self._written, self._write_seconds = time.monotonic(), 0.0
        self.state: dict[str, Any] = {
            "status": "running",
            "started": now(),
            "ended": None,
            "command": ["symbreak", *sys.argv[1:]],
            "error": None,
        }
        self.callbacks: Sequence[Callback] = ()
        self._kept: list[dict[str, float]] = []
        self._known: dict[str, float] = {}
        self._before = self.path / SUMMARY
        if origin is not None:
            self._kept = rows_before(history := origin.history(self.path), origin.step)
            self._before = history.with_name(SUMMARY)
            self._known = origin.outcome()
            self.state["resumed"] = {"checkpoint": str(origin.path), "step": origin.step}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Record in ``run.json`` the start and end of a block of work; Ctrl-C ends the process with status 130."""
        self._start()
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
            code: Any = INTERRUPTED if interrupted else error.code if isinstance(error, SystemExit) else None
            self._stop({INTERRUPTED: "interrupted", PREEMPTED: "preempted"}.get(code, "failed"), code)
            raise SystemExit(code) from error
        except BaseException as error:
            self._fail(error)
            raise
        self._end("finished")

    @rank_zero_only
    def _stop(self, status: str, code: Any) -> None:
        """Record that a signal ended the run, and print how to resume it."""
        self._end(status, f"exit code {code}" if status == "failed" else None)
        latest = latest_checkpoint(self.path)
        onward = ["symbreak", "fit", "--ckpt_path", str(latest), "--run.dir", str(self.path)]
        hint = f"go on with it by: {shlex.join(onward)}" if latest else "no checkpoint was saved"
        print(f"symbreak: {self.path} was {status} at step {self.summary.get('step', 0)}; {hint}", file=sys.stderr)

    @rank_zero_only
    def _fail(self, error: BaseException) -> None:
        """Record an error, with its traceback in a file of the run's folder."""
        file = self.path / TRACEBACK
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        error.add_note(f"{file} says where")
        self._end("failed", f"{type(error).__name__}: {error}")

    @rank_zero_only
    def _start(self) -> None:
        file = self.path / STATE
        self.state["started"] = read_json(file).get("started") or self.state["started"]
        self.state |= {"process": identity(), **code_state()}
        write_json(file, self.state)
        with warnings.catch_warnings():
            # Lightning warns that it deletes the old history; a resumed run has already read the rows it keeps
            warnings.simplefilter("ignore")
            self.experiment.metrics.extend(self._kept)
        for row in [*self._kept, self._known]:
            self._remember(row)
        order = {key: place for place, key in enumerate(read_json(self._before))}  # that of metrics.csv is alphabetical
        self.summary = dict(sorted(self.summary.items(), key=lambda item: order.get(item[0], len(order))))

    @rank_zero_only
    def _end(self, status: str, error: str | None = None) -> None:
        self._write()
        self.state |= {"status": status, "ended": now(), "error": error}
        write_json(self.path / STATE, self.state)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Keep hyperparameters named ``<group>/<name>`` (determinism, acceleration, environment) in ``run.json``."""
        for key, value in (params or {}).items():
            group, _, name = str(key).partition("/")
            if name:
                self.state.setdefault(group, {})[name] = value
        write_json(self.path / STATE, self.state)

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
        """Write the files at most once a second, and less often if writing is slow."""
        if time.monotonic() - self._written > max(1.0, self._write_seconds / WRITING_SHARE):
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the files at the end of each of Lightning's stages."""
        self._write()

    def _note_output_layers(self) -> None:
        """Record the layer whose features are the logits, once a callback has observed that it runs last."""
        found = {name for each in self.callbacks if isinstance(each, Monitor) for name in each.output_layers()}
        if found and self.state.get("output_layers") != sorted(found):
            self.state["output_layers"] = sorted(found)
            write_json(self.path / STATE, self.state)

    def _write(self) -> None:
        started = time.monotonic()
        if self._experiment is not None:
            self._note_output_layers()
            self._experiment.save()
            write_json(self.path / SUMMARY, self.summary)
        self._written = time.monotonic()
        self._write_seconds = self._written - started
