from . import functional
from .acceleration import Acceleration
from .clone_separation import CloneSeparation
from .determinism import Determinism, determinism_mode, determinism_state
from .exact_resume import ExactResume
from .feature_diversity import FeatureDiversity
from .lottery_ticket import LotteryTicket
from .perturbation import Perturbation
from .plugins.all_reduce import OrderedDDPStrategy, ordered_all_reduce
from .plugins.checkpoint_io import AtomicCheckpointIO
from .plugins.environment import environment
from .plugins.metrics import FeatureAsymmetry, FeatureCorrelation, InputCosine, MeanSquare
from .rank_trajectory import RankTrajectory
from .rounding_noise import RoundingNoise
from .signal_propagation import SignalPropagation
from .snapshots import Snapshots
from .stop_at_level import StopAtLevel
from .symmetry_breaking import SymmetryBreaking
from .symmetry_trace import SymmetryTrace
from .throughput import Throughput

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
