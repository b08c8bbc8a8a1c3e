"""The state of a sweep: its points and their attempts.

The run folders are the only record. Each holds `point.json` (the point, written once) and `attempts.json` (start, end
and outcome of every attempt in it). The single driver reads them when it starts and is their only writer. Optuna's
study is rebuilt from them in memory, so no second record can contradict or outlive the runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from symbreak.sweeps.engine.files import PatientFiles
from symbreak.sweeps.engine.metric import metric_value
from symbreak.sweeps.engine.optimizer import Optimizer
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import sweep_argument
from symbreak.sweeps.run.folder import (
    ATTEMPTS,
    ENGINE_FILES,
    HISTORY,
    POINT,
    STATE,
    SWEEP,
    checkpoints,
    history,
    last_lines,
    now,
    read_attempts,
    read_json,
    write_json,
)
from symbreak.sweeps.search import points, space
from symbreak.sweeps.search.points import Point
from symbreak.sweeps.search.sweep_file import SweepFile

ENDED = ("finished", "pruned", "failed")


class Study:
    """The points of one sweep.

    Args:
        sweep: The checked sweep file.
        folder: The sweep's folder; None to read and write nothing.
        say: Called with a message about a record that cannot be read or written.

    Attributes:
        points: Every point known so far, in the order of their numbers.
        total: Number of points, None if unbounded.
        files: Writes the records.

    Raises:
        UsageError: If the folder holds runs of another command, or of another search space.
    """

    def __init__(self, sweep: SweepFile, folder: Path | None, say: Callable[[str], None] = print) -> None:
        self.sweep, self.folder, self.say = sweep, folder, say
        self.files = PatientFiles(say)
        forms = space.leaves(sweep.parameters)
        self._varying = [".".join(path) for path, form in forms if space.is_varying(form)]
        self.optimizer = Optimizer(sweep, self._varying)
        known = self._read() if folder else {}
        grid = space.grid_points(sweep.parameters) if sweep.method == "grid" else ()
        number = max((point.number for point in known.values()), default=0)
        in_grid: dict[str, Point] = {}
        for parameters in grid:
            identity = points.identity(parameters)
            if identity not in known and identity not in in_grid:
                number += 1
                known[identity] = self._point(identity, number, parameters)
            in_grid[identity] = known[identity]
            if len(in_grid) == sweep.run_cap:
                break
        chosen = in_grid if sweep.method == "grid" else known
        self.points = sorted(chosen.values(), key=lambda point: point.number)
        self.total = len(in_grid) or sweep.run_cap
        self._waiting = iter(self.points)
        if folder and self.optimizer.is_needed:
            for point in (point for point in self.points if point.status in ("finished", "pruned")):
                self.optimizer.learn(point, history(folder / point.folder / HISTORY, sweep.metric.get("name", "")))

    def next(self) -> Point | None:
        """Return a point to start, drawn by Optuna unless the sweep is a grid; None if none is left."""
        for point in self._waiting:
            if point.status == "waiting":
                return point
        self._waiting = (point for point in self.points if point.status == "waiting")
        if (point := next(self._waiting, None)) is not None:
            return point
        if self.sweep.method == "grid" or (self.total is not None and len(self.points) >= self.total):
            return None
        number = max((point.number for point in self.points), default=0) + 1
        self.optimizer.ask(point := self._point(str(number), number, {}))
        self.points.append(point)
        return point

    def is_done(self) -> bool:
        """Return whether the sweep is bounded and every point has a result."""
        done = sum(point.status in ("finished", "pruned") for point in self.points)
        return self.total is not None and done >= self.total

    def begin(self, point: Point) -> tuple[Path, Path | None]:
        """Record the start of an attempt.

        Returns:
            The run folder, and the checkpoint to resume from, if any.

        Raises:
            OSError: If the record cannot be written.
        """
        assert self.folder is not None
        folder, checkpoint = self._place(point)
        folder.mkdir(parents=True, exist_ok=True)
        start = {"started": now(), "resumed": checkpoint is not None}
        attempts = [*(point.attempts if folder.name == point.folder else []), start]
        if not (folder / POINT).exists():
            content = {"sweep": self.sweep.name, "number": point.number, "arm": point.label}
            write_json(folder / POINT, content | {"parameters": point.parameters} | point.draw)
        write_json(folder / ATTEMPTS, {"attempts": attempts})
        point.folder, point.attempts, point.status = folder.name, attempts, "running"
        self.optimizer.ask(point)
        return folder, checkpoint

    def end(self, point: Point, status: str, value: float | None = None, error: str = "") -> None:
        """Record the end of an attempt: finished, pruned, failed, or interrupted (the point then waits)."""
        assert self.folder is not None
        point.status, point.value, point.error = status if status in ENDED else "waiting", value, error
        point.attempts[-1] |= {"ended": now(), "status": status, "value": value, "error": error}
        self.files.write(self.folder / point.folder / ATTEMPTS, {"attempts": point.attempts})
        self.optimizer.tell(point, status, value)

    def _read(self) -> dict[str, Point]:
        """Read the records of earlier drivers; close the attempts of a driver that was killed."""
        assert self.folder is not None
        self._check_same_sweep(self.folder / SWEEP)
        found: dict[str, Point] = {}
        for file in sorted(self.folder.glob(f"*/{POINT}")):
            note = read_json(file)
            if not isinstance(note.get("parameters"), dict) or not isinstance(note.get("number"), int):
                self.say(f"{file} cannot be read: its point runs again, in a new folder")
                continue
            is_grid = self.sweep.method == "grid"
            identity = points.identity(note["parameters"]) if is_grid else str(note["number"])
            point = Point(identity, note["number"], note["parameters"], str(note.get("arm", "")), file.parent.name)
            point.draw = {key: note[key] for key in ("params", "distributions") if key in note}
            point.attempts = [{"started": ""} | each for each in read_attempts(file.parent)] or [{"started": ""}]
            if identity not in found or found[identity].attempts[-1]["started"] <= point.attempts[-1]["started"]:
                found[identity] = point
        for point in found.values():
            self._conclude(point)
        return found

    def _conclude(self, point: Point) -> None:
        """Set a point's state from its last attempt, or from its run's own record if no driver recorded the end."""
        assert self.folder is not None
        folder, last = self.folder / point.folder, point.attempts[-1]
        status = last.get("status") or read_json(folder / STATE).get("status")
        if "status" not in last and status in ("finished", "failed"):
            value = metric_value(folder, self.sweep.metric.get("name", ""))
            self.end(point, status, value, last_lines(folder) if status == "failed" else "")
        elif "status" not in last:
            self.end(point, "interrupted")
        point.value, point.error = last.get("value"), ""
        point.status = status if status in ("finished", "pruned") else "waiting"  # failed points are retried

    def _point(self, identity: str, number: int, parameters: dict[str, Any]) -> Point:
        return Point(identity, number, parameters, points.label(parameters, self._varying))

    def _place(self, point: Point) -> tuple[Path, Path | None]:
        """Return the next attempt's folder and checkpoint: the last folder if it has one, else one without a run."""
        assert self.folder is not None
        last = point.attempts[-1] if point.attempts else {}
        is_hopeless = last.get("status") == "failed" and last.get("resumed")
        if point.folder and self.sweep.is_symbreak and not is_hopeless:
            folder = self.folder / point.folder
            whole = (path for path in checkpoints(folder) if is_zipfile(path))  # torch.save writes the end last
            if (checkpoint := next(whole, None)) is not None:
                return folder, checkpoint
        return next(folder for folder in self._folders(point) if not _holds_a_run(folder)), None

    def _folders(self, point: Point) -> Iterator[Path]:
        assert self.folder is not None
        first = self.folder / (point.folder.partition(".again")[0] or point.first_folder)
        yield first
        attempt = 2
        while True:
            yield first.with_name(f"{first.name}.again{attempt}")
            attempt += 1

    def _check_same_sweep(self, file: Path) -> None:
        sweep = self.sweep
        mine = {"method": sweep.method, "command": sweep.command, "program": sweep.program, "metric": sweep.metric}
        if sweep.method != "grid":
            mine["parameters"] = sweep.parameters
        theirs = read_json(file)
        if not theirs:
            if file.exists():
                self.say(f"{file} cannot be read: it is kept as {file.name}.damaged and made again from the sweep file")
                file.replace(file.with_name(f"{file.name}.damaged"))
            self.files.write(file, {"file": sweep_argument(sweep.path)} | mine)
        elif changed := [key for key in mine if json.loads(json.dumps(mine[key])) != theirs.get(key)]:
            raise UsageError(
                f"{sweep.path}: {changed[0]}: differs from that of the runs which sweep {sweep.name!r} has already; "
                "give the file another `name`, or the runs another --output"
            )


def _holds_a_run(folder: Path) -> bool:
    return folder.is_dir() and bool({entry.name for entry in folder.iterdir()} - ENGINE_FILES)
