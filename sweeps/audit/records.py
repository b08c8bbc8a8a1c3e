"""The audit's JSON -> a matrix of operation against precision with four states."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.report.figures import Figure
from symbreak.sweeps.report.figures.audit import matrix
from symbreak.sweeps.run.folder import flatten

_NAMES = {
    "operation": ("operation", "op", "name"),
    "precision": ("precision", "dtype"),
    "repeatable": ("repeatable",),
    "symmetric": ("symmetric",),
}
_RECORD_LISTS = ("rows", "records", "findings")


def is_audit(path: Path) -> bool:
    """Whether a path is taken as an audit's file rather than a folder of runs."""
    return path.suffix == ".json" and path.is_file()


def read_audit(path: Path) -> pd.DataFrame:
    """Records of an audit: columns operation, precision, repeatable, symmetric, and whatever else it says.

    Raises:
        UsageError: If the file holds no list of such records.
    """
    content = _read(path)
    if isinstance(content, dict):
        columns = content.get("columns", [])
        content = next((content[name] for name in _RECORD_LISTS if isinstance(content.get(name), list)), [])
        content = [dict(zip(columns, row, strict=False)) if isinstance(row, list) else row for row in content]
    records = [_named(record) for record in content if isinstance(record, dict)] if isinstance(content, list) else []
    records = [record for record in records if record]
    if not records:
        raise UsageError(f"{path}: no audit; expected a list of records with {', '.join(_NAMES)}")
    return pd.DataFrame(records)


def audit_provenance(path: Path) -> list[tuple[str, str, int]]:
    """Where an audit was made, as rows (item, value, 1) of the report's provenance."""
    content = _read(path)
    told = content.get("provenance") if isinstance(content, dict) else None
    items = flatten(told) if isinstance(told, dict) else {}
    return [(f"{path.name}: {key}", str(value), 1) for key, value in items.items() if value is not None]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a JSON file ({error})") from error


def _named(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record under this module's names; None where one of them is missing."""
    found = {new: next((old for old in olds if old in record), None) for new, olds in _NAMES.items()}
    if None in found.values():
        return None
    named = record | {new: record[str(old)] for new, old in found.items()}
    ranks = named.get("world_size", 1)
    return named | ({"operation": f"{named['operation']}, {ranks} ranks"} if ranks != 1 else {})


def audit_figures(path: Path) -> list[Figure]:
    """One matrix per device and mode of an audit file; cases that no mode can touch stand in each."""
    frame = read_audit(path)
    groups = [name for name in ("device", "mode") if name in frame and frame[name].nunique() > 1]
    if not groups:
        return [matrix(frame, "")]
    anywhere = frame[groups].isin(["any"]).any(axis=1)
    parts = frame[~anywhere].groupby(groups, sort=False)
    return [matrix(pd.concat([own, frame[anywhere]]), ", ".join(map(str, name))) for name, own in parts]
