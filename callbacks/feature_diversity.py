"""Log correlations between the filters, kernels and channels of each layer."""

import math

from torch import Tensor

from symbreak.callbacks.functional import feature_correlation, weight_correlations
from symbreak.callbacks.measurements import Measures, Row
from symbreak.callbacks.monitor import Monitor


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

    def measure_weight(self, layer: str, weight: Tensor) -> Measures:
        """Return the three correlations of one weight."""
        values = weight_correlations(weight)
        filters, inputs, taps = len(weight), weight.shape[1], weight[0, 0].numel()
        exists = (filters > 1 and inputs * taps > 1, inputs > 1 and filters * taps > 1, filters * inputs > 1 < taps)
        names = ("forward_correlation", "backward_correlation", "kernel_correlation")
        return {name: value for name, value, there in zip(names, values, exists, strict=True) if there}

    def measure_features(self, features: Tensor, channel_dim: int) -> Measures:
        """Return the mean absolute correlation of one layer's channels."""
        channels = features.shape[channel_dim]
        if channels < 2 or features.numel() == channels:
            return {}
        return {"feature_correlation": feature_correlation(features, channel_dim)}

    def derive(self, step: int, row: Row) -> Row:
        """Return the total diversity."""
        prefix = self.key("backward_correlation", "")
        rests = [1 - value**2 for key, value in row.items() if key.startswith(prefix)]
        return {self.key("total"): sum(math.log(rest) / 2 if rest else -math.inf for rest in rests)} if rests else {}
