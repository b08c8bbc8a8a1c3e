"""Networks as LightningModules, and weight initialisation."""

from symbreak.lightning_modules.classifier import SGD_DEFAULTS, ImageClassifier
from symbreak.lightning_modules.const_net import ConstNet
from symbreak.lightning_modules.imported import ImportedNetwork
from symbreak.lightning_modules.language_model import LanguageModel
from symbreak.lightning_modules.leaky_net import PUBLISHED_INITS, LeakyNet
from symbreak.lightning_modules.mixture import MixtureOfExperts
from symbreak.lightning_modules.mlp import MLP
from symbreak.lightning_modules.resnet import ResNet
from symbreak.lightning_modules.schemes import Init, Initialized, initialize, zero_
from symbreak.lightning_modules.surgery import LowRank, tie_heads_, upcycle_, widen_
from symbreak.lightning_modules.transformer import TransformerLM

__all__ = [
    "MLP",
    "PUBLISHED_INITS",
    "SGD_DEFAULTS",
    "ConstNet",
    "ImageClassifier",
    "ImportedNetwork",
    "Init",
    "Initialized",
    "LanguageModel",
    "LeakyNet",
    "LowRank",
    "MixtureOfExperts",
    "ResNet",
    "TransformerLM",
    "initialize",
    "tie_heads_",
    "upcycle_",
    "widen_",
    "zero_",
]
