"""Provenance of the results: code, versions, device, switches, commands."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from symbreak.sweeps.report.table import RunTable
from symbreak.sweeps.run.folder import flatten

NAMES = {"package.version": "symbreak", "git.commit": "code: commit", "git.dirty": "code: uncommitted changes"}
YES_NO = {True: "yes", False: "no"}
SHOWN = ("package", "git", "environment", "determinism", "acceleration")
"""Groups of run.json that hold the provenance."""

Row = tuple[str, str, int]


def provenance(table: RunTable) -> list[Row]:
    """Return rows (item, value, number of runs), one for each value that an item takes."""
    counts: dict[tuple[str, str], int] = {}
    for meta in table.meta:
        for item in _items({key: meta[key] for key in SHOWN if key in meta}):
            counts[item] = counts.get(item, 0) + 1
    order = {item: position for position, item in enumerate(dict.fromkeys(item for item, _ in counts))}
    return [(item, value, n) for (item, value), n in sorted(counts.items(), key=lambda pair: order[pair[0][0]])]


def audit_provenance(name: str, content: Mapping[str, Any]) -> list[Row]:
    """Return the provenance of an audit, as rows (item, value, 1)."""
    return [(f"{name}: {item}", value, 1) for item, value in _items(content)]


def _items(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    flat = {NAMES.get(key, key.replace(".", ": ", 1)): _text(value) for key, value in flatten(content).items()}
    return [(item, text) for item, text in flat.items() if text]


def _text(value: Any) -> str:
    """Return a value as text, empty if it holds no information; a list holds a value per optimizer."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    return "" if value is None else YES_NO[value] if isinstance(value, bool) else str(value)


def commands(table: RunTable) -> list[tuple[str, str]]:
    """Return each run and the command line that started it."""
    pairs = zip(table.runs["run"], table.meta, strict=True)
    return [(str(run), command_line(meta["command"])) for run, meta in pairs if meta.get("command")]


def command_line(words: Any) -> str:
    """Return the words of a command as a shell reads them."""
    return shlex.join(map(str, words)) if isinstance(words, list) else json.dumps(words)
