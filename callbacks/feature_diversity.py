"""How different the filters, kernels and channels of each layer are."""

import math

from torch import Tensor

from symbreak.callbacks.functional import feature_correlation, weight_correlations
from symbreak.callbacks.measurements import Measures, Row
from symbreak.callbacks.monitor import Monitor


class FeatureDiversity(Monitor):
    """Logs the mean correlations of every layer: 1 where all features are copies of one, near 0 where they differ.

    =========================================== ======================================================================
    key                                         meaning
    =========================================== ======================================================================
    ``diversity/forward_correlation/<layer>``   mean correlation over pairs of filters (incoming weights)
    ``diversity/forward_correlation``           mean over layers
    ``diversity/backward_correlation/<layer>``  the same over pairs of inputs (outgoing weights)
    ``diversity/backward_correlation``          mean over layers
    ``diversity/kernel_correlation/<layer>``    the same over all pairs of spatial kernels
    ``diversity/kernel_correlation``            mean over layers
    ``diversity/total``                         sum over layers of ln sqrt(1 - backward^2); for a fully symmetric
                                                layer -inf, or what rounding leaves of it, below -6
    ``diversity/feature_correlation/<layer>``   mean absolute correlation over pairs of channels of the output
    ``diversity/feature_correlation``           mean over hidden layers
    =========================================== ======================================================================

    A layer with nothing to pair (one filter, one input per group) or with a single number in what would be paired has
    no such key. When and
    where is measured, and the arguments, are as in :class:`~symbreak.callbacks.monitor.Monitor`.
    """

    family = "diversity"

    def measure_weight(self, layer: str, weight: Tensor) -> Measures:
        """Return the three correlations of one weight."""
        values = weight_correlations(weight)
        filters, inputs, taps = len(weight), weight.shape[1], weight[0, 0].numel()
        exists = (filters > 1 and inputs * taps > 1, inputs > 1 and filters * taps > 1, filters * inputs > 1 < taps)
        names = ("forward_correlation", "backward_correlation", "kernel_correlation")
        return {name: value for name, value, there in zip(names, values, exists, strict=True) if there}

    def measure_features(self, features: Tensor, channel_dim: int) -> Measures:
        """Return the correlation of one layer's channels."""
        channels = features.shape[channel_dim]
        if channels < 2 or features.numel() == channels:
            return {}
        return {"feature_correlation": feature_correlation(features, channel_dim)}

    def derive(self, step: int, row: Row) -> Row:
        """Return the total diversity."""
        prefix = self.key("backward_correlation", "")
        rests = [1 - value**2 for key, value in row.items() if key.startswith(prefix)]
        return {self.key("total"): sum(math.log(rest) / 2 if rest else -math.inf for rest in rests)} if rests else {}
