"""The outcome of a run: the values that the terminal and the report show."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from symbreak.sweeps.run.folder import STATE, SUMMARY, read_json, status

if TYPE_CHECKING:
    from symbreak.sweeps.run.record import Run

COLUMNS = ("test accuracy", "distinct filters", "broken step", "escape step", "growth rate")
STRAIGHT = 0.9
"""Least R^2 of ln(asymmetry) against the step for a rise that counts as exponential."""
VALIDATION = ("val/accuracy", "val/loss")
DISTINCT = "symmetry/distinct_filters"
_ANNOUNCED = r"^symmetry (broke at step \d+|was broken from the start): "


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run; None where an event never occurred or a value was not measured.

    Attributes:
        test_accuracy: Accuracy on the test set.
        distinct_filters: Last number of distinct filters of each hidden layer.
        broken_step: First measured step at which the filters of a hidden layer differ in a bit.
        escape_step: First measured step at which the features' asymmetry reaches the run's threshold.
        growth_rate: Slope of ln(asymmetry) per step over its last rise; None too if its R^2 is below `STRAIGHT`.
        diverged_step: First measured step at which a measure is not finite.
        censored_at: Last step of a run that is not finished: until then, an event that is None did not occur.
        measured: Whether symmetry was measured at all.
        cause: What a trace found to have broken the symmetry, in words without the step.
    """

    test_accuracy: float | None
    distinct_filters: dict[str, int]
    broken_step: int | None
    escape_step: int | None
    growth_rate: float | None
    diverged_step: int | None
    censored_at: int | None
    measured: bool
    cause: str | None = None

    def cells(self) -> dict[str, str]:
        """Return the cells of a table's row, by the names in ``COLUMNS``."""
        values = (
            _shown(self.test_accuracy, ".1%"),
            describe_filters(self.distinct_filters.values()),
            self._event(self.broken_step),
            self._event(self.escape_step),
            _shown(self.growth_rate, ".3f"),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def _event(self, step: int | None) -> str:
        if step is not None:
            return str(step)
        if not self.measured:
            return "-"
        return "never" if self.censored_at is None else f"not by {self.censored_at}"


def outcome_of(run: Run) -> Outcome:
    """Return the outcome of a run that was read from its folder or from W&B."""
    last = int(run.history.index[-1]) if len(run.history) else 0
    return _outcome(run.summary | {"step": last}, run.meta, run.status)


def read_outcome(folder: Path) -> Outcome:
    """Return the outcome of the run in a folder from its two small files, without its history."""
    state = read_json(folder / STATE)
    return _outcome(read_json(folder / SUMMARY), state, status(folder, state))


def _outcome(summary: Mapping[str, Any], state: Mapping[str, Any], run_status: str) -> Outcome:
    r2 = _number(summary.get("symmetry/growth_rate_r2"))
    return Outcome(
        test_accuracy=_number(summary.get("test/accuracy")),
        distinct_filters=distinct_filters(summary, state),
        broken_step=_step(summary.get("symmetry/broken_step")),
        escape_step=_step(summary.get("symmetry/escape_step")),
        growth_rate=_number(summary.get("symmetry/growth_rate")) if (r2 or 0) >= STRAIGHT else None,
        diverged_step=_step(summary.get("symmetry/diverged_step")),
        censored_at=None if run_status == "finished" else _step(summary.get("step")) or 0,
        measured=any(key.startswith(DISTINCT) for key in summary),
        cause=_cause(state.get("symmetry")),
    )


def distinct_filters(summary: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, int]:
    """Return the last number of distinct filters of each hidden layer: all but ``output_layers`` in run.json."""
    noted = state.get("output_layers")
    outputs: Collection[Any] = noted if isinstance(noted, list) else ()
    found = {key.removeprefix(f"{DISTINCT}/"): _step(value) for key, value in summary.items() if f"{DISTINCT}/" in key}
    return {layer: count for layer, count in found.items() if count is not None and layer not in outputs}


def common_cause(outcomes: Iterable[Outcome]) -> str:
    """Return the most frequent cause of several runs and, unless all have it, their number; empty without one."""
    causes = [outcome.cause for outcome in outcomes]
    known = Counter(cause for cause in causes if cause is not None).most_common(1)
    if not known:
        return ""
    ((cause, count),) = known
    return cause if count == len(causes) else f"{cause}, in {count} of {len(causes)} runs"


def _cause(symmetry: Any) -> str | None:
    cause = symmetry.get("cause") if isinstance(symmetry, Mapping) else None
    return re.sub(_ANNOUNCED, "", cause) if isinstance(cause, str) else None


def describe_filters(counts: Collection[int]) -> str:
    """Return numbers of distinct filters in words: ``1 in 10 of 10 layers``, or their range."""
    if not counts:
        return "-"
    if single := sum(count == 1 for count in counts):
        return f"1 in {single} of {len(counts)} layers"
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(min(counts))


def _number(value: Any) -> float | None:
    """Return a finite number as it is, None for anything else."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _step(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_run(path: Path) -> None:
    """Print the folder of a run, and its outcome as a table."""
    summary, outcome = read_json(path / SUMMARY), read_outcome(path)
    validated = {key.replace("val/", "validation "): _shown(_number(summary.get(key)), ".4g") for key in VALIDATION}
    cells = outcome.cells() if outcome.measured or outcome.test_accuracy is not None else validated
    cells = {column: value for column, value in cells.items() if value != "-"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in cells:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    console = Console()
    console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if cells:
        console.print(table)
