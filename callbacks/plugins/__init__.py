"""Components of trainers and callbacks: strategy, checkpoint files, profilers, metrics, environment."""

from symbreak.callbacks.plugins.all_reduce import OrderedDDPStrategy, ordered_all_reduce, ordered_mean, ordered_sum
from symbreak.callbacks.plugins.checkpoint_io import AtomicCheckpointIO
from symbreak.callbacks.plugins.environment import driver_version, environment
from symbreak.callbacks.plugins.metrics import FeatureAsymmetry, FeatureCorrelation, InputCosine, MeanSquare
from symbreak.callbacks.plugins.profilers import SHARES, FetchListener, Listener, Stopwatch, remove_listener, share_of

__all__ = [
    "SHARES",
    "AtomicCheckpointIO",
    "FeatureAsymmetry",
    "FeatureCorrelation",
    "FetchListener",
    "InputCosine",
    "Listener",
    "MeanSquare",
    "OrderedDDPStrategy",
    "Stopwatch",
    "driver_version",
    "environment",
    "ordered_all_reduce",
    "ordered_mean",
    "ordered_sum",
    "remove_listener",
    "share_of",
]
