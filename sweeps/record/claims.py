"""Claims: questions answered by a sentence whose numbers are computed from recorded tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from symbreak.sweeps.errors import UsageError, condensed, nearest
from symbreak.sweeps.record.markdown import escape, table_of
from symbreak.sweeps.yaml_files import read_mapping

CLAIMS, README = "claims.yaml", "README.md"
FUNCTIONS: dict[str, Callable[[pd.Series], float]] = {
    "mean": lambda values: float(values.mean()),
    "std": lambda values: float(values.std()),
    "median": lambda values: float(values.median()),
    "min": lambda values: float(values.min()),
    "max": lambda values: float(values.max()),
    "count": lambda values: float(values.count()),
    "ratio": lambda values: float(values.max() / values.min()),
}
KEYS = {
    **dict.fromkeys(("question", "answer", "record", "command"), (str, "a text")),
    **dict.fromkeys(("figure", "cost"), (str | None, "a text")),
    "numbers": (dict | None, "a mapping of names to expressions"),
    "readme": (bool | None, "true or false"),
}
"""Keys of a claim, each with its type, in Python and in words."""
NUMBER_KEYS = ("table", "where", "zero", *FUNCTIONS)
PLACE = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
FORMAT = re.compile(r"[,+]?(d|(\.\d{1,2})?[efg%]?)")
NOT_RECORDED = "Not recorded yet."
HEADER = """# Results

Every number below is computed from the tables of a record (a folder beside this file) by the expressions in
[`claims.yaml`](claims.yaml); `python -m symbreak.sweeps.record` rewrites this file. Means and standard deviations are
over n seeds. Each record holds its runs, figures, versions and hardware.

Terms: *asymmetry*: rms distance of a layer's channels from their mean, relative to their size; 0 while all carry the
same bits. *Broken step*: first step at which two filters differ in a bit. *Escape step*: first measured step at which
the asymmetry of some hidden layer reaches 0.1. *Initial noise* is relative to He's standard deviation; *equivalent*
initial noise escapes at the same step. *Ulp*: unit in the last place; *rounding noise* multiplies each gradient by
1 + u ulps, u uniform in [-1, 1] times its size. *Strict*: deterministic algorithms only. *ZerO*: weights of zeros and
ones, with a Hadamard matrix where a layer widens; *partial identity*: without that matrix. *Averaging*: every output
channel is the mean of all inputs. *Churn*: share of test images that two runs classify differently.
"""


def read_claims(folder: Path) -> list[dict[str, Any]]:
    """Return the claims of a folder of records.

    Raises:
        UsageError: If the file is not a list of claims, or a claim lacks a key, or has an unknown or mistyped one.
    """
    path = folder / CLAIMS
    claims = read_mapping(path).get("claims")
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise UsageError(f"{path}: expected a list of mappings under `claims`")
    for number, claim in enumerate(claims, start=1):
        for key in claim:
            if key not in KEYS:
                raise UsageError(f"{path}: claim {number}: {key}: unknown key{nearest(str(key), KEYS)}")
        for key, (kind, words) in KEYS.items():
            if not isinstance(claim.get(key), kind):
                raise UsageError(f"{path}: claim {number}: {key}: {words} is needed")
    return claims


def figures_of(folder: Path, record: str) -> set[str]:
    """Return the figures that the claims of a folder, if it has any, want of a record.

    Raises:
        UsageError: If the claims cannot be read.
    """
    claims = read_claims(folder) if (folder / CLAIMS).is_file() else []
    return {str(claim["figure"]) for claim in claims if claim["record"] == record and claim.get("figure")}


def answer(claim: Mapping[str, Any], folder: Path) -> str | None:
    """Return the sentence of a claim with its numbers filled in; None if its record is not there.

    ``{name}`` or ``{name:.1%}`` in the sentence stands for a number of the claim, in a format of Python; for 0 stands
    the text under the number's key ``zero``, if it has one.

    Raises:
        UsageError: If a number is not defined, cannot be computed, or has an unsuitable format.
    """
    record = folder / claim["record"]
    if not record.is_dir():
        return None
    numbers = claim.get("numbers") or {}
    if brace := re.search(r"[{}]\S*", PLACE.sub("", claim["answer"])):
        raise UsageError(f"{claim['record']}: answer: {brace[0]!r} is neither {{name}} nor {{name:format}}")

    def fill(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or "g"
        if name not in numbers:
            close = nearest(name, map(str, numbers))
            raise UsageError(f"{claim['record']}: {{{name}}} is no number of the claim{close}")
        if not FORMAT.fullmatch(form):
            raise UsageError(f"{claim['record']}: {name}: {form!r} is no format of a number, such as .1%, .2e or d")
        value = evaluate(numbers[name], record, name)
        if value == 0 and "zero" in numbers[name]:
            return str(numbers[name]["zero"])
        return format(round(value) if form.endswith("d") else value, form) if math.isfinite(value) else "unknown"

    return " ".join(PLACE.sub(fill, claim["answer"]).split())


def evaluate(expression: Any, record: Path, name: str) -> float:
    """Return a number: one of `FUNCTIONS` of one column, over the rows in which other columns have given values.

    ``{mean: test/accuracy, where: {init: he}}`` is the mean of a column of runs.csv; ``table`` names another table of
    the record; ``where`` compares by the column's last component. A list stands for any of its values, null for an
    empty cell, and ``{not: VALUE}`` for all other cells.

    Raises:
        UsageError: If a table, column or function is unknown, a table is damaged, no row is left, or a ratio is to 0.
    """
    where = f"{record.name}: {name}"
    functions = [key for key in expression if key in FUNCTIONS] if isinstance(expression, dict) else []
    if len(functions) != 1 or set(expression) - set(NUMBER_KEYS):
        raise UsageError(f"{where}: expected one of {', '.join(FUNCTIONS)}, and optionally `table`, `where` and `zero`")
    frame = _table(record, str(expression.get("table", "runs")), where)
    conditions = expression.get("where") or {}
    if not isinstance(conditions, dict):
        raise UsageError(f"{where}: where: expected a mapping of columns to values, not {conditions!r}")
    for column, wanted in conditions.items():
        is_negated = isinstance(wanted, dict) and list(wanted) == ["not"]
        values = wanted["not"] if is_negated else wanted
        if isinstance(values, dict):
            raise UsageError(f"{where}: where: {column}: expected a value, a list or {{not: VALUE}}, not {wanted!r}")
        allowed = {_comparable(each) for each in (values if isinstance(values, list) else [values])}
        frame = frame[frame[_column(frame, str(column), where)].map(_comparable).isin(allowed) != is_negated]
    (function,) = functions
    values = pd.to_numeric(frame[_column(frame, str(expression[function]), where)], errors="coerce")
    if frame.empty:
        raise UsageError(f"{where}: no row with {conditions}" if conditions else f"{where}: the table has no row")
    if function == "ratio" and values.min() == 0:
        raise UsageError(f"{where}: ratio: the smallest {expression[function]!r} is 0; all values must differ from 0")
    return FUNCTIONS[function](values)


def _comparable(cell: Any) -> Any:
    """Return a cell as a number if it is one, so that 0.001 equals 1e-3, else as text, empty for None."""
    text = "" if cell is None else str(cell)
    try:
        return float(text)
    except ValueError:
        return text


def _table(record: Path, name: str, where: str) -> pd.DataFrame:
    tables = sorted(path.stem for path in record.glob("*.csv"))
    if name not in tables:
        raise UsageError(f"{where}: no table {name!r}; there are {', '.join(tables) or 'none'}")
    try:
        return pd.read_csv(record / f"{name}.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UsageError(f"{where}: {name}.csv is no CSV table in UTF-8: {condensed(str(error))}") from error


def _column(frame: pd.DataFrame, name: str, where: str) -> str:
    """Return the column of this name, or the only one of which it is the last component."""
    columns = [str(column) for column in frame]
    found = [name] if name in columns else [column for column in columns if column.endswith(f".{name}")]
    if len(found) != 1:
        raise UsageError(f"{where}: {name!r} is not one column{nearest(name, columns)}")
    return found[0]


def render(folder: Path) -> str:
    """Return the README of a folder of records: one table of all claims, and the records without a claim.

    Raises:
        UsageError: If the claims cannot be read, a number cannot be computed, or a picture is not there.
    """
    claims = read_claims(folder)
    rows = []
    for claim in claims:
        found = answer(claim, folder)
        figure = claim.get("figure")
        picture = f"[{figure}]({claim['record']}/{figure}.png)" if figure and found else ""
        if picture and not (folder / claim["record"] / f"{figure}.png").is_file():
            raise UsageError(f"{claim['record']}: figure: no picture {figure}.png in the record")
        text = f"{found} ([record]({claim['record']}/README.md))" if found else NOT_RECORDED
        cost = escape(claim.get("cost") or "")
        rows.append([escape(claim["question"]), text, picture, f"`{claim['command']}`", cost])
    columns = ["question", "answer", "figure", "command", "cost"]
    used = {claim["record"] for claim in claims}
    others = [path.parent.name for path in sorted(folder.glob("*/provenance.json")) if path.parent.name not in used]
    more = "\n".join(f"- [{name}]({name}/README.md)" for name in others)
    return HEADER + "\n" + table_of(columns, rows) + (f"\nRecords without a claim:\n\n{more}\n" if more else "")


def write_readme(folder: Path) -> Path:
    """Rewrite the README of a folder of records from its claims."""
    path = folder / README
    path.write_text(render(folder), encoding="utf-8")
    return path
