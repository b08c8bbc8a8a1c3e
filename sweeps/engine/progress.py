"""What a sweep shows: a live table of its runs, plain lines without a terminal, and a table of results at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symbreak.sweeps.run.folder import STATE, SUMMARY, fraction, max_steps, read_json
from symbreak.sweeps.run.outcome import COLUMNS, describe_filters, distinct_filters, read_outcome
from symbreak.sweeps.search.points import Row

PLAIN_SECONDS = 15.0
"""Without a terminal, how long between two lines of progress."""
SHOWN = 24
"""How many runs the live table shows; of more, those that run now and the latest."""
STYLES = {"running": "cyan", "finished": "green", "failed": "red", "pruned": "yellow", "waiting": "dim"}

ENDINGS = {"running": "with another caller", "pruned": "stopped early"}


def number(value: Any, digits: int = 3) -> str:
    """Return a number in short form, and a dash for none."""
    if not isinstance(value, int | float):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


@dataclass
class Progress:
    """Prints a sweep's progress, in place on a terminal and as lines elsewhere; a context manager.

    Attributes:
        name: The sweep's name.
        folder: Its folder.
        total: How many points it has, None if it never ends.
        metric: The name of the sweep's metric, and whether more is better.
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

    def show(self, rows: Sequence[Row]) -> None:
        """Show where every run is now."""
        if self._done_before is None:
            self._done_before = sum(row.status not in ("waiting", "running") for row in rows)
        if self.console.is_terminal:
            self._live.update(Group(self._table(rows), Text(self._caption(rows), style="dim")), refresh=True)
        else:
            self._lines(rows)

    def _table(self, rows: Sequence[Row]) -> Table:
        table = Table(title=f"sweep {self.name}", title_justify="left")
        for heading in ("arm", "status", "step", "train loss", "distinct filters", "elapsed"):
            table.add_column(heading, justify="left" if heading in ("arm", "status") else "right")
        busy = [row for row in rows if row.status == "running"]
        quiet = [row for row in rows if row.status not in ("running", "waiting")][-max(SHOWN - len(busy), 0) :]
        ahead = [row for row in rows if row.status == "waiting"][: max(SHOWN - len(busy) - len(quiet), 0)]
        for row in sorted([*busy, *quiet, *ahead], key=lambda row: row.point.number):
            status = Text(row.status, style=STYLES.get(row.status, ""))
            table.add_row(escape(row.point.label), status, *self._cells(row))
        return table

    def _cells(self, row: Row) -> tuple[str, str, str, str]:
        folder = row.point.folder(self.folder)
        summary, run = read_json(folder / SUMMARY), read_json(folder / STATE)
        step, last = summary.get("step"), max_steps(folder)
        shown = number(step) + (f"/{last}" if step is not None and last else "")
        distinct = describe_filters(distinct_filters(summary, run).values())
        return shown, number(summary.get("train/loss")), distinct, elapsed(run)

    def _caption(self, rows: Sequence[Row]) -> str:
        done = sum(row.status not in ("waiting", "running") for row in rows)
        parts = [f"{done} of {self.total if self.total else 'any number of'} runs done"]
        left = self._seconds_left(rows, done)
        if left is not None:
            parts.append(f"about {clock(left)} left")
        best = best_row(rows, self.metric)
        if best is not None:
            parts.append(f"best {self.metric['name']} {number(best.value, 4)} ({best.point.label})")
        return ", ".join(parts)

    def _seconds_left(self, rows: Sequence[Row], done: int) -> float | None:
        partial = sum(fraction(row.point.folder(self.folder)) for row in rows if row.status == "running")
        here = done - (self._done_before or 0) + partial
        if not self.total or here < 0.05:
            return None
        return (time.monotonic() - self.begun) / here * (self.total - done - partial)

    def _lines(self, rows: Sequence[Row]) -> None:
        for row in rows:
            before = self._seen.get(row.point.number)
            if row.status not in (before, "waiting") and not (before is None and row.status != "running"):
                self.console.print(self._line(row), markup=False, highlight=False, soft_wrap=True)
            self._seen[row.point.number] = row.status
        if time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            for row in rows:
                if row.status == "running":
                    self.console.print(self._line(row), markup=False, highlight=False, soft_wrap=True)
            self.console.print(f"[{self.name}] {self._caption(rows)}", markup=False, highlight=False, soft_wrap=True)

    def _line(self, row: Row) -> str:
        step, loss, distinct, seconds = self._cells(row)
        rest = f": step {step}, train loss {loss}, distinct filters {distinct}, {seconds}" if step != "-" else ""
        return f"[{self.name}] {row.point.number} {row.point.label} {row.status}{rest}"


def best_row(rows: Sequence[Row], metric: dict[str, Any]) -> Row | None:
    """Return the finished run with the best metric, None without one."""
    scored = [(row.value, -row.point.number, row) for row in rows if row.status == "finished" and row.value is not None]
    if not metric or not scored:
        return None
    sign = 1 if metric["goal"] == "maximize" else -1
    return max(scored, key=lambda entry: (sign * entry[0], entry[1]))[2]


def elapsed(run: dict[str, Any]) -> str:
    """Return how long a run has taken, from the content of its run.json."""
    if not run.get("started"):
        return "-"
    begun = datetime.fromisoformat(run["started"]).astimezone(UTC)
    ended = datetime.fromisoformat(run["ended"]).astimezone(UTC) if run.get("ended") else datetime.now(UTC)
    return clock((ended - begun).total_seconds())


def clock(seconds: float) -> str:
    """Return a duration as 12s, 3m05s or 2h07m."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def results(rows: Sequence[Row], folder: Path, metric: dict[str, Any]) -> Table:
    """Return the table of results at the end.

    Args:
        rows: Every point.
        folder: The sweep's folder.
        metric: The sweep's metric, shown where it is not among the usual columns.

    Returns:
        Arm, test accuracy, distinct filters, broken step, escape step and growth rate; the last error lines of failed
        runs; the status of runs that are not finished.
    """
    has_metric = metric and metric["name"] not in ("test/accuracy", "symmetry/escape_step")
    is_mixed = any(row.status != "finished" for row in rows)
    table = Table("arm")
    for heading in [*([metric["name"]] if has_metric else []), *COLUMNS]:
        table.add_column(heading, justify="right")
    if is_mixed:
        table.add_column("how it ended")
    for row in rows:
        cells = list(read_outcome(row.point.folder(folder)).cells().values())
        ended = f"failed: {row.error.strip()}" if row.error else ENDINGS.get(row.status, row.status)
        score = [number(row.value, 4)] if has_metric else []
        last = [Text(ended, style=STYLES[row.status])] if is_mixed else []
        table.add_row(escape(row.point.label), *score, *cells, *last)
    return table
