"""The driver, a sweep's only scheduler: take points from the study, start them on an executor, record outcomes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from symbreak.sweeps.engine.executor import Executor, Process
from symbreak.sweeps.engine.job import Job
from symbreak.sweeps.engine.metric import metric_value
from symbreak.sweeps.engine.progress import best_point
from symbreak.sweeps.engine.study import Study
from symbreak.sweeps.run.folder import (
    ARGUMENTS,
    HISTORY,
    LOG,
    STATE,
    history,
    last_lines,
    latest_checkpoint,
    now,
    read_json,
    write_json,
)
from symbreak.sweeps.search import sweep_file
from symbreak.sweeps.search.points import Point

POLL_SECONDS = 0.25
MOST_INTERRUPTIONS = 10
"""A point fails after its process was killed this many times in a row without saving a checkpoint."""
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)
"""Signals that end a run from outside; other deaths by signal are crashes."""
EXIT_CODES = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Exit codes of a run that was asked to end."""


@dataclass
class Active:
    """A run in progress.

    Attributes:
        point: Its point.
        folder: Its run folder.
        process: Its process.
        since: Start time in seconds since the epoch.
        log_start: Size of the log when it started.
        reported: Number of metric values reported to early termination.
        size: Size of the history file when they were read.
        pruned: Whether early termination has stopped it.
    """

    point: Point
    folder: Path
    process: Process
    since: float
    log_start: int
    reported: int = 0
    size: int = -1
    pruned: bool = False


class Driver:
    """Driver of a sweep's runs.

    Args:
        study: The sweep's state.
        executor: Executes the runs.
        retries: Maximum number of restarts of a point in this call after its run crashed.
        say: Called with a line for the user.
    """

    def __init__(self, study: Study, executor: Executor, retries: int = 0, say: Callable[[str], None] = print) -> None:
        self.study, self.executor, self.retries, self.say = study, executor, retries, say
        self.sweep = study.sweep
        self.active: list[Active] = []
        self._crashes: Counter[int] = Counter()
        self._interruptions: Counter[int] = Counter()

    def run(self, show: Callable[[list[Point]], None]) -> None:
        """Run until no point is left; an interrupt stops the runs gracefully, and a second one kills them."""
        try:
            while self.step():
                show(self.study.points)
                self.executor.wait(POLL_SECONDS)
            show(self.study.points)
        finally:
            self.shut_down()

    def step(self) -> bool:
        """Poll every run once and start new runs where possible; return whether work is left."""
        for active in list(self.active):
            code = active.process.exit_code()
            if code is not None:
                self.active.remove(active)
                self.record(active, code)
            elif self.sweep.early_terminate and not active.pruned:
                self.consider_stopping(active)
        is_left = True
        while is_left and self.executor.free() > 0 and self.study.files.flush():
            is_left = self._start_next()
        return bool(self.active) or is_left or not self.study.files.flush()

    def _start_next(self) -> bool:
        """Start one run if a point is left, and return whether one was."""
        point = None if self.is_on_target() else self.study.next()
        if point is None:
            return False
        try:
            self.start(point)
        except OSError as error:
            self.study.files.failed(Path(error.filename or self.study.folder or ""), error)
        return True

    def is_on_target(self) -> bool:
        """Return whether a finished run has reached the metric's target."""
        if "target" not in self.sweep.metric:
            return False
        best = best_point(self.study.points, self.sweep.metric)
        if best is None or best.value is None:
            return False
        target = self.sweep.metric["target"]
        return best.value >= target if self.sweep.metric["goal"] == "maximize" else best.value <= target

    def start(self, point: Point) -> None:
        """Start a point's run, from its last checkpoint if it has one.

        Raises:
            OSError: If the run folder cannot be written.
        """
        folder, checkpoint = self.study.begin(point)
        folder = folder.resolve()
        if "${args_json_file}" in self.sweep.command:
            write_json(folder / ARGUMENTS, point.parameters)
        words = sweep_file.expand_command(self.sweep, point.parameters, folder / ARGUMENTS)
        command = sweep_file.strip_env(words) + ([f"--ckpt_path={checkpoint.resolve()}"] if checkpoint else [])
        own = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}  # for other machines
        variables = {"WANDB_RUN_GROUP": self.sweep.name} | own | {"SYMBREAK_RUN_DIR": str(folder)}
        if not self.sweep.is_symbreak:
            variables["WANDB_DIR"] = str(folder)
        log_start = (folder / LOG).stat().st_size if (folder / LOG).exists() else 0
        process = self.executor.start(Job(command, str(folder), variables, self.executor.threads))
        self.active.append(Active(point, folder, process, time.time(), log_start))

    def record(self, active: Active, code: int) -> None:
        """Record how a run ended."""
        point, folder = active.point, active.folder
        message = last_lines(folder, active.log_start) or _ending(code)
        self._close_state(folder, code, message)
        value = metric_value(folder, self.sweep.metric.get("name", ""))
        if active.pruned:
            self.study.end(point, "pruned", value)
        elif code == 0:
            self.study.end(point, "finished", value)
            if value is None and self.sweep.needs_metric:
                where = "neither summary.json nor an offline W&B run in its folder has it"
                metric = self.sweep.metric["name"]
                self.say(f"{folder}: logged no number as {metric!r}, which counts as the worst: {where}")
        elif code in EXIT_CODES or -code in INTERRUPTIONS:
            saved = latest_checkpoint(folder)
            has_progress = saved is not None and saved.stat().st_mtime > active.since
            self._interruptions[point.number] = 0 if has_progress else self._interruptions[point.number] + 1
            is_hopeless = self._interruptions[point.number] >= MOST_INTERRUPTIONS
            error = f"its process was killed {MOST_INTERRUPTIONS} times" if is_hopeless else ""
            self.study.end(point, "failed" if is_hopeless else "interrupted", error=error)
        else:
            self._crashes[point.number] += 1
            self.study.end(point, "failed", error=message)
            if self._crashes[point.number] <= self.retries:
                point.status = "waiting"

    def _close_state(self, folder: Path, code: int, message: str) -> None:
        """Record the end of a run that was killed before it could do so itself."""
        state = read_json(folder / STATE)
        if code != 0 and state.get("status") == "running":
            status = "interrupted" if code in EXIT_CODES or -code in INTERRUPTIONS else "failed"
            self.study.files.write(folder / STATE, state | {"status": status, "ended": now(), "error": message})

    def consider_stopping(self, active: Active) -> None:
        """Report the metric's new values to early termination, and stop the run if it is pruned."""
        file = active.folder / HISTORY
        size = file.stat().st_size if file.exists() else -1
        if size == active.size:
            return
        active.size = size
        values = history(file, self.sweep.metric["name"])
        for index in range(active.reported, len(values)):
            active.reported = index + 1
            if self.study.optimizer.report(active.point, index + 1, values[index]):
                active.pruned = True
                active.process.stop()
                return

    def shut_down(self) -> None:
        """Stop the runs in progress and record their ends; do nothing after a normal end."""
        try:
            if self.active:
                self.say(f"Stopping {len(self.active)} runs, which save a checkpoint first. Ctrl-C again kills them.")
            for active in self.active:
                active.process.stop()
            while any(active.process.exit_code() is None for active in self.active):
                self.executor.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            for active in self.active:
                active.process.kill()
        for active in self.active:
            code = active.process.exit_code()
            self.record(active, -signal.SIGKILL if code is None else code)
        self.active = []
        self.study.files.flush(at_once=True)
        for path in self.study.files.unwritten():
            self.say(f"{path} could not be written; the next call finds out by the run's own files")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}, no message in {LOG}"
    return f"killed by signal {-code} ({signal.Signals(-code).name})"
