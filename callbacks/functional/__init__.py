"""Measures as pure functions of tensors, which depend on torch only and avoid device synchronisation."""

from symbreak.callbacks.functional.clones import CloneGroup, find_clones
from symbreak.callbacks.functional.correlation import (
    backward_correlation,
    cross_layer_correlation,
    feature_correlation,
    forward_correlation,
    kernel_correlation,
    mean_pairwise_correlation,
)
from symbreak.callbacks.functional.distinct import distinct_rows
from symbreak.callbacks.functional.propagation import input_cosine, mean_square
from symbreak.callbacks.functional.rank import effective_rank, numerical_rank, stable_rank
from symbreak.callbacks.functional.symmetry import Growth, asymmetry, growth
from symbreak.callbacks.functional.unit_sets import Units
from symbreak.callbacks.functional.units import find_units
from symbreak.callbacks.functional.weight_correlations import WeightCorrelations, weight_correlations

__all__ = [
    "CloneGroup",
    "Growth",
    "Units",
    "WeightCorrelations",
    "asymmetry",
    "backward_correlation",
    "cross_layer_correlation",
    "distinct_rows",
    "effective_rank",
    "feature_correlation",
    "find_clones",
    "find_units",
    "forward_correlation",
    "growth",
    "input_cosine",
    "kernel_correlation",
    "mean_pairwise_correlation",
    "mean_square",
    "numerical_rank",
    "stable_rank",
    "weight_correlations",
]
