"""One pure function per figure: from the table of runs to a plotly figure with its caption, or None without data."""

from collections.abc import Callable

from symbreak.sweeps.report.figures import (
    clones,
    correlation,
    layers,
    ledger,
    networks,
    noise,
    parallel,
    symmetry,
    training,
)
from symbreak.sweeps.report.figures.style import Figure
from symbreak.sweeps.report.table import RunTable

FIGURES: tuple[Callable[[RunTable], Figure | list[Figure] | None], ...] = (
    training.accuracy,
    training.loss,
    training.final_accuracy,
    symmetry.growth,
    clones.separation,
    clones.steps_to_separation,
    noise.equivalent_noise,
    correlation.forward,
    correlation.backward,
    correlation.difference,
    layers.distinct_filters,
    layers.forward_correlation,
    layers.backward_correlation,
    correlation.ranks,
    networks.init_strings,
    networks.depth,
    ledger.effects,
    ledger.growth,
    parallel.parallel,
)


def choose(table: RunTable) -> list[Figure]:
    """Draw every figure that the data supports, in the order of the report."""
    chosen: list[Figure] = []
    for draw in FIGURES:
        figures = draw(table)
        chosen += figures if isinstance(figures, list) else [figures] if figures else []
    return chosen


__all__ = ["FIGURES", "Figure", "choose"]
