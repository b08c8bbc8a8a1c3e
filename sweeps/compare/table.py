"""Compared pairs as rows: one per pair of arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from symbreak.sweeps.compare.comparison import PairResult

COLUMNS: dict[str, tuple[str, str]] = {
    "distance": ("distance", "||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) of the last weights: 0 for equal ones"),
    "matched": ("matched", "the same after the best matching of channels"),
    "churn": ("churn", "share of test images with different predictions"),
    "independent_churn": ("independent", "churn expected of independent errors at these accuracies"),
    "error_consistency": ("kappa", "agreement beyond accuracy: 0 for independent errors, 1 for the same ones"),
    "cka": ("CKA", "debiased similarity of the hidden layers' features, mean over layers"),
    "barrier": ("barrier", "largest excess of the loss on the straight line between the two networks"),
    "matched_barrier": ("barrier, matched", "the same after matching"),
    "growth_rate": ("growth rate", "slope of ln(distance) per step while the distance is below 1 %"),
    "growth_r2": ("R²", "of that fit"),
    "differs_from": ("differs from", "first snapshot at which a prediction differs, for runs of one seed"),
}
"""Title and meaning of each column, by the field of `PairResult`."""
PERCENT = {"churn", "independent_churn"}


def kind(result: PairResult) -> str:
    """Return the kind of a pair: `within ARM`, or `ARM and ARM`."""
    first, second = result.arms
    return f"within {first}" if first == second else f"{first} and {second}"


def by_kind(results: Sequence[PairResult]) -> dict[str, list[PairResult]]:
    """Return the pairs of each kind, pairs within arms first."""
    groups: dict[str, list[PairResult]] = {}
    for result in sorted(results, key=lambda result: result.arms[0] != result.arms[1]):
        groups.setdefault(kind(result), []).append(result)
    return groups


def known_columns(results: Sequence[PairResult]) -> list[str]:
    """Return the fields that have a value for at least one pair."""
    return [name for name in COLUMNS if any(getattr(result, name) is not None for result in results)]


def rows(results: Sequence[PairResult]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the rows of the table: per kind the number of pairs and the means of the values.

    If some pairs of a row have no value, the cell states the number of pairs in its mean.
    """
    columns = known_columns(results)
    body = []
    for name, group in by_kind(results).items():
        body.append([name, str(len(group)), *(_mean(group, column) for column in columns)])
    return ["pairs", "number", *(COLUMNS[column][0] for column in columns)], body


def _mean(group: Sequence[PairResult], column: str) -> str:
    values = [value for result in group if (value := getattr(result, column)) is not None and math.isfinite(value)]
    if not values:
        return "-"
    form: Callable[[float], str] = (lambda x: f"{100 * x:.2f}%") if column in PERCENT else (lambda x: f"{x:.3g}")
    return form(float(np.mean(values))) + (f" (n={len(values)})" if len(values) < len(group) else "")


def terminal_table(results: list[PairResult]) -> Table:
    """Return the table of all pairs for the terminal."""
    columns, body = rows(results)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(columns):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in body:
        table.add_row(*map(escape, row))
    return table
