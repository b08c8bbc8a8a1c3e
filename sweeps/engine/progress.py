"""Output of a sweep: a live table of its runs, plain lines without a terminal, and a final table of results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symbreak.sweeps.run.folder import STATE, SUMMARY, active_seconds, fraction, max_steps, read_json
from symbreak.sweeps.run.outcome import COLUMNS, describe_filters, distinct_filters, read_outcome
from symbreak.sweeps.search.points import Point

PLAIN_SECONDS = 15.0
"""Seconds between two lines of progress without a terminal."""
SHOWN = 24
"""Maximum rows of the live table; running and most recent first."""
STYLES = {"running": "cyan", "finished": "green", "failed": "red", "pruned": "yellow", "waiting": "dim"}


def number(value: Any, digits: int = 3) -> str:
    """Return a number in short form, and a dash for none."""
    if not isinstance(value, int | float):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


@dataclass
class Progress:
    """Context manager that prints a sweep's progress, in place on a terminal and as lines elsewhere.

    Attributes:
        name: The sweep's name.
        folder: Its folder.
        total: Number of points, None if unbounded.
        metric: Metric name and goal.
        console: Where to print.
    """

    name: str
    folder: Path
    total: int | None
    metric: dict[str, Any]
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self._seen: dict[int, str] = {}
        self._done_before: int | None = None
        self._last_line = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, points: Sequence[Point]) -> None:
        """Show the current state of every run."""
        if self._done_before is None:
            self._done_before = sum(point.status not in ("waiting", "running") for point in points)
        if self.console.is_terminal:
            self._live.update(Group(self._table(points), Text(self._caption(points), style="dim")), refresh=True)
        else:
            self._lines(points)

    def _table(self, points: Sequence[Point]) -> Table:
        table = Table(title=f"sweep {self.name}", title_justify="left")
        for heading in ("arm", "status", "step", "train loss", "distinct filters", "elapsed"):
            table.add_column(heading, justify="left" if heading in ("arm", "status") else "right")
        busy = [point for point in points if point.status == "running"]
        quiet = [point for point in points if point.status not in ("running", "waiting")][-max(SHOWN - len(busy), 0) :]
        ahead = [point for point in points if point.status == "waiting"][: max(SHOWN - len(busy) - len(quiet), 0)]
        for point in sorted([*busy, *quiet, *ahead], key=lambda point: point.number):
            status = Text(point.status, style=STYLES.get(point.status, ""))
            table.add_row(escape(point.label), status, *self._cells(point))
        return table

    def _cells(self, point: Point) -> tuple[str, str, str, str]:
        folder = self.folder / point.folder
        summary, run = read_json(folder / SUMMARY), read_json(folder / STATE)
        step, last = summary.get("step"), max_steps(folder)
        shown = number(step) + (f"/{last}" if step is not None and last else "")
        distinct = describe_filters(distinct_filters(summary, run).values())
        seconds = active_seconds(folder, run)
        elapsed = "-" if seconds is None else clock(seconds)
        return shown, number(summary.get("train/loss")), distinct, elapsed

    def _caption(self, points: Sequence[Point]) -> str:
        done = sum(point.status not in ("waiting", "running") for point in points)
        parts = [f"{done} of {self.total if self.total else 'any number of'} runs done"]
        left = self._seconds_left(points, done)
        if left is not None:
            parts.append(f"about {clock(left)} left")
        best = best_point(points, self.metric)
        if best is not None:
            parts.append(f"best {self.metric['name']} {number(best.value, 4)} ({best.label})")
        return ", ".join(parts)

    def _seconds_left(self, points: Sequence[Point], done: int) -> float | None:
        partial = sum(fraction(self.folder / point.folder) for point in points if point.status == "running")
        here = done - (self._done_before or 0) + partial
        if not self.total or here < 0.05:
            return None
        return (time.monotonic() - self.begun) / here * (self.total - done - partial)

    def _lines(self, points: Sequence[Point]) -> None:
        for point in points:
            before = self._seen.get(point.number)
            if point.status not in (before, "waiting") and not (before is None and point.status != "running"):
                self.console.print(self._line(point), markup=False, highlight=False, soft_wrap=True)
            self._seen[point.number] = point.status
        if time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            for point in points:
                if point.status == "running":
                    self.console.print(self._line(point), markup=False, highlight=False, soft_wrap=True)
            self.console.print(f"[{self.name}] {self._caption(points)}", markup=False, highlight=False, soft_wrap=True)

    def _line(self, point: Point) -> str:
        step, loss, distinct, seconds = self._cells(point)
        rest = f": step {step}, train loss {loss}, distinct filters {distinct}, {seconds}" if step != "-" else ""
        return f"[{self.name}] {point.number} {point.label} {point.status}{rest}"


def best_point(points: Sequence[Point], metric: dict[str, Any]) -> Point | None:
    """Return the finished run with the best metric, None without one."""
    scored = [
        (point.value, -point.number, point)
        for point in points
        if point.status == "finished" and point.value is not None
    ]
    if not metric or not scored:
        return None
    sign = 1 if metric["goal"] == "maximize" else -1
    return max(scored, key=lambda entry: (sign * entry[0], entry[1]))[2]


def clock(seconds: float) -> str:
    """Return a duration as 12s, 3m05s or 2h07m."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def results(points: Sequence[Point], folder: Path, metric: dict[str, Any]) -> Table:
    """Return the table of results at the end.

    Args:
        points: Every point.
        folder: The sweep's folder.
        metric: The sweep's metric, shown if it is not among the usual columns.

    Returns:
        Arm, test accuracy, distinct filters, broken step, escape step and growth rate; the last error line of failed
        runs; the status of runs that are not finished.
    """
    has_metric = metric and metric["name"] not in ("test/accuracy", "symmetry/escape_step")
    is_mixed = any(point.status != "finished" for point in points)
    table = Table()
    table.add_column("arm", overflow="fold")
    for heading in [*([metric["name"]] if has_metric else []), *COLUMNS]:
        table.add_column(heading, justify="right")
    if is_mixed:
        table.add_column("status", overflow="fold")
    for point in points:
        cells = read_outcome(folder / point.folder).cells().values() if point.folder else ["-"] * len(COLUMNS)
        score = [number(point.value, 4)] if has_metric else []
        status = [Text(_status(point), style=STYLES[point.status])] if is_mixed else []
        table.add_row(escape(point.label), *score, *cells, *status)
    return table


def _status(point: Point) -> str:
    if point.error:
        return f"failed: {point.error.strip().splitlines()[-1][:200]}"
    return "stopped early" if point.status == "pruned" else point.status
