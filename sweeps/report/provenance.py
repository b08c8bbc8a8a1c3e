"""Where the numbers come from: code, versions, device, switches, commands."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from symbreak.sweeps.report.table import RunTable
from symbreak.sweeps.run.folder import flatten

NAMES = {"git.commit": "code: commit", "git.dirty": "code: uncommitted changes"}
YES_NO = {True: "yes", False: "no"}
SHOWN = ("git", "versions", "device", "determinism", "environment", "threads")


def provenance(table: RunTable) -> list[tuple[str, str, int]]:
    """Rows (item, value, number of runs), one for each value that an item takes."""
    counts: dict[tuple[str, str], int] = {}
    for meta in table.meta:
        for item, value in _items(meta):
            counts[item, value] = counts.get((item, value), 0) + 1
    order = {item: position for position, item in enumerate(dict.fromkeys(item for item, _ in counts))}
    return [(item, value, n) for (item, value), n in sorted(counts.items(), key=lambda pair: order[pair[0][0]])]


def _items(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    flat = flatten({key: meta[key] for key in SHOWN if key in meta})
    known = {NAMES.get(key, key.replace(".", ": ", 1)): value for key, value in flat.items() if value is not None}
    return [(item, YES_NO[value] if isinstance(value, bool) else str(value)) for item, value in known.items()]


def commands(table: RunTable) -> list[tuple[str, str]]:
    """Run and the command line that started it."""
    pairs = zip(table.runs["run"], table.meta, strict=True)
    return [(str(run), _command(meta["command"])) for run, meta in pairs if meta.get("command")]


def _command(words: Any) -> str:
    return shlex.join(map(str, words)) if isinstance(words, list) else json.dumps(words)
