"""A trace as table rows, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from symbreak.callbacks import SymmetryTrace
from symbreak.callbacks.tracing import Change, Event
from symbreak.callbacks.tracing.verdict import BREAKS, INITIAL
from symbreak.sweeps import pages
from symbreak.sweeps.trace.divergence import Divergence

AXES = ("filters", "inputs")
COLUMNS = {
    "layer": "weight, and whether its filters (rows) or its inputs (columns) became different",
    "step": "number of updates after which they differ",
    "groups": "groups of equal ones before and after that update, or at the start",
    "cause": "separation: an operation made equal slices different; randomness: it draws random numbers; values: given "
    "or arranged different; spread: by another weight that differed before the step",
    "operation": "what did it first",
    "where": "tensor or module, and phase",
    "tensor": "dtype and shape",
    "slices": "groups of equal slices that the operation left",
    "ulps": "largest difference between slices that should be equal, in ulps of the tensor's largest entry",
    "line": "of the user's code",
    "audit": "the audit's verdict on the operation in this precision, on this machine; - where no operation separated",
}


@dataclass(frozen=True)
class Verdict:
    """The outcome of `symbreak trace` without `--repeat`.

    Args:
        sentence: The outcome in one sentence.
        rows: For each weight and axis the first break that reached it, cells by `COLUMNS`.
        unreached: Separations and random numbers that reached no weight in the steps traced, in words.
        steps: Number of updates of the run.
        operations: Number of operations compared.
    """

    sentence: str
    rows: list[dict[str, str]]
    unreached: list[str]
    steps: int
    operations: int


def verdict(watch: SymmetryTrace, steps: int, audit: Callable[[Event], str]) -> Verdict:
    """Return the findings of a callback, with the audit's verdict on each operation.

    Args:
        watch: The callback, after training.
        steps: Number of updates of the run.
        audit: Verdict on an event's operation.
    """
    operations = sum(trace.operations for _, trace in watch.traces)
    finding = watch.found or watch.initial
    sentence = f"no operation separated identical channels in {steps} steps ({operations} operations checked)"
    sentence += next((trace.note for _, trace in watch.traces), "")
    rows: dict[tuple[str, int], dict[str, str]] = {}
    unreached: dict[str, None] = {}
    if watch.initial is not None:
        groups = watch.traces[0][1].initial if watch.traces else {}
        rows = {(name, 0): _initial(name, watch.initial.step, groups.get(name)) for name in watch.initial.weights}
    for step, trace in watch.traces:
        for change in trace.changes:
            if change.cause is not None and (change.weight, change.axis) not in rows:
                rows[change.weight, change.axis] = _row(step, change, change.cause, audit(change.cause))
        lost = [event for event in trace.events if event.kind in BREAKS and event.number not in trace.reached]
        unreached |= dict.fromkeys(f"step {event.step}: {event}" for event in lost)
    return Verdict(
        sentence if finding is None else str(finding), list(rows.values()), list(unreached), steps, operations
    )


def _initial(weight: str, step: int, groups: int | None) -> dict[str, str]:
    known = {"layer": f"{weight}, {AXES[0]}", "step": str(step), "groups": str(groups or ""), "audit": "-"}
    return dict.fromkeys(COLUMNS, "") | known | {"cause": "values", "operation": INITIAL}


def _row(step: int, change: Change, event: Event, audited: str) -> dict[str, str]:
    spread = event.operation == INITIAL
    return dict(
        zip(
            COLUMNS,
            (
                f"{change.weight}, {AXES[change.axis]}",
                str(step),
                f"{change.before} to {change.after}",
                "spread" if spread else event.kind,
                f"by {event.subject}" if spread else event.operation,
                "" if spread else ", ".join(part for part in (event.subject, event.place.phase) if part),
                f"{event.dtype} {'x'.join(map(str, event.shape))}",
                f"{event.groups} of {event.slices}",
                "" if event.ulps is None else f"{event.ulps:.3g}",
                "" if event.place.line is None else str(event.place.line),
                audited,
            ),
            strict=True,
        )
    )


def table(found: Verdict) -> Table:
    """Return the rows for the terminal, where the page's columns would not fit."""
    result = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("layer", "step", "first break", "ulps", "audit"):
        result.add_column(name, overflow="fold")
    for row in found.rows:
        result.add_row(row["layer"], row["step"], _cause(row), row["ulps"], row["audit"])
    return result


def _cause(row: dict[str, str]) -> str:
    return ", ".join(part for part in (f"{row['cause']} {row['operation']}", row["where"]) if part)


def write_json(path: Path, content: Verdict | Divergence, facts: dict[str, Any]) -> None:
    """Write the outcome, its sentence and the facts it depends on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"verdict": str(content) if isinstance(content, Divergence) else content.sentence, **asdict(content)}
    path.write_text(json.dumps(data | {"environment": facts}, indent=1) + "\n", encoding="utf-8")


def write_page(path: Path, title: str, content: Verdict | Divergence, facts: dict[str, Any]) -> None:
    """Write the page: the sentence, the chain from the first operation to the layers it reached, and the facts."""
    is_divergence = isinstance(content, Divergence)
    text = pages.render(
        "trace.html",
        title=title,
        facts=str(content) if is_divergence else content.sentence,
        columns=list(COLUMNS),
        rows=[] if is_divergence else [list(row.values()) for row in content.rows],
        chain=[] if is_divergence else _chain(content.rows),
        unreached=[] if is_divergence else content.unreached,
        pair=_pair(content) if is_divergence else [],
        meanings=list(COLUMNS.items()),
        provenance=[(key, value) for key, value in facts.items() if value is not None],
    )
    pages.write(path, text)


def _chain(rows: list[dict[str, str]]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return the layers by the step and cause of their first difference, in order."""
    steps: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        steps.setdefault(f"step {row['step']}", {}).setdefault(_cause(row), []).append(row["layer"])
    return [(step, list(causes.items())) for step, causes in steps.items()]


def _pair(found: Divergence) -> list[list[str]]:
    if found.one is None:
        return []
    one, other = found.one, found.other
    rows = [["operation", one.operation, other.operation if other else ""]]
    rows += [["where", one.place, other.place if other else ""]]
    rows += [["outputs", one.outputs, other.outputs if other else ""]]
    rows += [["inputs' hashes", " ".join(one.read), " ".join(other.read) if other else ""]]
    return [*rows, ["outputs' hashes", " ".join(one.made), " ".join(other.made) if other else ""]]
