"""Write and read an audit's JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from symbreak.sweeps.errors import UsageError

if TYPE_CHECKING:
    from symbreak.sweeps.audit.cases import Finding

NEEDED = ("operation", "precision", "mode", "world_size", "repeatable", "symmetric")
"""Columns that the report draws."""


def write(path: Path, provenance: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Write provenance and all findings, one row a line under the names in ``columns``."""
    rows = [asdict(finding) for finding in findings]
    head = json.dumps({"provenance": provenance, "columns": list(rows[0]) if rows else []}, indent=1)
    lines = ",\n".join(json.dumps(list(row.values())) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n]\n}}\n', encoding="utf-8")


def is_audit(path: Path) -> bool:
    """Return whether a path is taken as an audit's file rather than a folder of runs."""
    return path.suffix == ".json" and path.is_file()


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return an audit's provenance, and its findings with a row per case.

    Raises:
        UsageError: If the file is not an audit.
    """
    try:
        content = json.loads(path.read_bytes())
        columns, rows, provenance = content["columns"], content["rows"], content["provenance"]
        frame = pd.DataFrame(rows, columns=columns)
        dict(provenance)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: no file of `symbreak audit` ({reason})") from error
    if missing := [name for name in NEEDED if name not in frame]:
        raise UsageError(f"{path}: no file of `symbreak audit` (no column {', '.join(missing)})")
    return provenance, frame
