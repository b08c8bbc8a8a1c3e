"""Lightning callbacks that monitor and control training."""

from symbreak.callbacks import functional
from symbreak.callbacks.acceleration import Acceleration
from symbreak.callbacks.clone_separation import CloneSeparation
from symbreak.callbacks.determinism import Determinism, determinism_mode, determinism_state
from symbreak.callbacks.exact_resume import ExactResume
from symbreak.callbacks.feature_diversity import FeatureDiversity
from symbreak.callbacks.lottery_ticket import LotteryTicket
from symbreak.callbacks.perturbation import Perturbation
from symbreak.callbacks.plugins import (
    AtomicCheckpointIO,
    FeatureAsymmetry,
    FeatureCorrelation,
    InputCosine,
    MeanSquare,
    OrderedDDPStrategy,
    environment,
    ordered_all_reduce,
)
from symbreak.callbacks.rank_trajectory import RankTrajectory
from symbreak.callbacks.rounding_noise import RoundingNoise
from symbreak.callbacks.signal_propagation import SignalPropagation
from symbreak.callbacks.snapshots import Snapshots
from symbreak.callbacks.stop_at_level import StopAtLevel
from symbreak.callbacks.symmetry_breaking import SymmetryBreaking
from symbreak.callbacks.symmetry_trace import SymmetryTrace
from symbreak.callbacks.throughput import Throughput

__all__ = [
    "Acceleration",
    "AtomicCheckpointIO",
    "CloneSeparation",
    "Determinism",
    "ExactResume",
    "FeatureAsymmetry",
    "FeatureCorrelation",
    "FeatureDiversity",
    "InputCosine",
    "LotteryTicket",
    "MeanSquare",
    "OrderedDDPStrategy",
    "Perturbation",
    "RankTrajectory",
    "RoundingNoise",
    "SignalPropagation",
    "Snapshots",
    "StopAtLevel",
    "SymmetryBreaking",
    "SymmetryTrace",
    "Throughput",
    "determinism_mode",
    "determinism_state",
    "environment",
    "functional",
    "ordered_all_reduce",
]
