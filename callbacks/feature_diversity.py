"""Log correlations between the filters, kernels and channels of each layer."""

import math
from collections.abc import Sequence
from functools import partial

from symbreak.callbacks.functional.correlation import (
    absolute_sums,
    absolute_sums_of_unit,
    mean_correlation,
    unit_rows,
)
from symbreak.callbacks.functional.weight_correlations import correlation_sums, rows_of
from symbreak.callbacks.measurements import Row
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.stacks import Samples, Sums, WeightStack

NAMES = ("forward_correlation", "backward_correlation", "kernel_correlation")


class FeatureDiversity(Monitor):
    """Log the mean correlations of every layer: 1 if all features are copies of one, near 0 if they differ.

    =========================================== ======================================================================
    key                                         meaning
    =========================================== ======================================================================
    ``diversity/forward_correlation/<layer>``   mean correlation over pairs of filters (incoming weights)
    ``diversity/forward_correlation``           mean over layers
    ``diversity/backward_correlation/<layer>``  the same over pairs of inputs (outgoing weights)
    ``diversity/backward_correlation``          mean over layers
    ``diversity/kernel_correlation/<layer>``    the same over all pairs of spatial kernels
    ``diversity/kernel_correlation``            mean over layers
    ``diversity/total``                         sum over layers of ln sqrt(1 - backward^2); a fully symmetric layer
                                                gives -inf, or with rounding a value below -6
    ``diversity/feature_correlation/<layer>``   mean absolute correlation over pairs of channels of the output
    ``diversity/feature_correlation``           mean over hidden layers
    =========================================== ======================================================================

    A correlation is not logged for a layer without pairs (one filter, one input per group) or whose paired rows have a
    single entry. :class:`~symbreak.callbacks.monitor.Monitor` describes the schedule, the layers and the arguments.
    """

    family = "diversity"

    def measure_weights(self, weights: WeightStack) -> Sums:
        """Return what the three correlations are computed from."""
        rows = rows_of(weights.values.shape[1:])
        return Sums(correlation_sums(weights.values, weights.wide), partial(_correlations, rows))

    def measure_features(self, samples: Samples) -> Sums | None:
        """Return what the mean absolute correlation of one layer's channels is computed from."""
        rows = samples.by_channel
        count, entries = len(rows), rows[0].numel()
        if count < 2 or entries < 2:
            return None
        direct = samples.is_direct
        sums = absolute_sums_of_unit(unit_rows(rows.flatten(1))) if direct else absolute_sums(rows, samples.products)
        return Sums(sums, partial(_feature_correlation, entries, count))

    def derive(self, step: int, row: Row) -> Row:
        """Return the total diversity."""
        prefix = self.key("backward_correlation", "")
        rests = [1 - value**2 for key, value in row.items() if key.startswith(prefix)]
        return {self.key("total"): sum(math.log(rest) / 2 if rest else -math.inf for rest in rests)} if rests else {}


def _correlations(rows: Sequence[tuple[int, int]], *sums: float) -> Row:
    pairs = zip(NAMES, rows, sums[::2], sums[1::2], strict=True)
    return {
        name: mean_correlation(total * total, size, entries, count)
        for name, (entries, count), total, size in pairs
        if count > 1 and entries > 1
    }


def _feature_correlation(entries: int, count: int, total: float, size: float) -> Row:
    return {"feature_correlation": mean_correlation(total, size, entries, count)}
