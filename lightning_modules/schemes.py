"""Initialisation schemes for whole networks: this project's or any nn.Module."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from symbreak.lightning_modules import initialization as init
from symbreak.lightning_modules.checks import check_choice
from symbreak.lightning_modules.initialization import HadamardScale, NoiseMode, add_noise_
from symbreak.lightning_modules.residual import NORM_LAYERS, WEIGHT_LAYERS, Structure, find_structure

Init = Literal[
    "default",
    "zero",
    "he",
    "xavier",
    "orthogonal",
    "delta_orthogonal",
    "averaging",
    "identity",
    "cyclic_identity",
    "partial_identity",
    "hadamard",
    "fixup",
    "rezero",
    "skipinit",
    "idinit",
    "sinusoidal",
]
RELU_GAIN = math.sqrt(2)


class Initialized(NamedTuple):
    """One row of the table returned by `initialize`."""

    parameter: str
    rule: str
    nonzeros: int


@dataclass(frozen=True)
class Recipe:
    """One scheme: a rule for weights, and its special cases in residual networks.

    Attributes:
        weight: rule for weights.
        last: rule for the last layer of each residual branch; None for that of all weights.
        zero_head: whether the head is 0.
        scale_branches: whether to scale branches as Fixup does.
        gate: gate of each branch by the number of branches.
    """

    weight: Callable[[Tensor], Tensor]
    last: Callable[[Tensor], Tensor] | None = None
    zero_head: bool = False
    scale_branches: bool = False
    gate: Callable[[int], float] | None = None


def _he_(weight: Tensor) -> Tensor:
    return init.he_(weight, fan="fan_in" if weight.ndim == 2 else "fan_out")


RECIPES = {
    "zero": Recipe(init.averaging_, last=nn.init.zeros_, zero_head=True),
    "he": Recipe(_he_),
    "xavier": Recipe(init.xavier_),
    "orthogonal": Recipe(partial(init.orthogonal_, gain=RELU_GAIN)),
    "delta_orthogonal": Recipe(partial(init.delta_orthogonal_, gain=RELU_GAIN)),
    "averaging": Recipe(init.averaging_, last=nn.init.zeros_),
    "identity": Recipe(init.identity_, last=nn.init.zeros_),
    "cyclic_identity": Recipe(init.cyclic_identity_, last=nn.init.zeros_),
    "partial_identity": Recipe(init.partial_identity_, last=nn.init.zeros_),
    "hadamard": Recipe(init.hadamard_, last=nn.init.zeros_),
    "fixup": Recipe(_he_, last=nn.init.zeros_, zero_head=True, scale_branches=True),
    "rezero": Recipe(_he_, gate=lambda branches: 0.0),
    "skipinit": Recipe(_he_, gate=lambda branches: branches**-0.5),
    "idinit": Recipe(partial(init.padded_identity_, noise=1e-6), last=partial(init.padded_identity_, scale=1e-6)),
    "sinusoidal": Recipe(init.sinusoidal_),
}


@torch.no_grad()
def initialize(
    module: nn.Module,
    scheme: Init,
    noise_scale: float = 0.0,
    noise_mode: NoiseMode = "additive",
    hadamard_scale: HadamardScale = "code",
) -> list[Initialized]:
    """Initialise every convolution, linear and attention layer of a network, in place.

    =====================  =======================================================================================
    scheme                 weights
    =====================  =======================================================================================
    ``default``            unchanged
    ``zero``               all features equal: ``averaging``, and the head 0
    ``he``                 N(0, 2 / fan_out) for convolutions, N(0, 2 / fan_in) for linear layers
    ``xavier``             N(0, 2 / (fan_in + fan_out))
    ``orthogonal``,        times sqrt(2), the gain of ReLU
    ``delta_orthogonal``
    ``averaging``          1 / C_in at the centre tap; last layer of each residual branch 0
    ``identity``           square layers only; last layer of each residual branch 0
    ``cyclic_identity``    W[d, d mod C_in] = 1; last layer of each residual branch 0
    ``partial_identity``   ones on the diagonal; last layer of each residual branch 0
    ``hadamard``           ZerO: identity, or Hadamard where the width grows; last layer of each residual branch 0
    ``fixup``              he, times L^(-1 / (2m - 2)) in the L residual branches of m layers; last layer of each
                           branch and head 0
    ``rezero``             he, with the gate of each residual branch 0
    ``skipinit``           he, with the gate of each of L branches 1 / sqrt(L) (its paper's other choice, 0, is
                           ``rezero``)
    ``idinit``             identity repeated to the weight's shape, plus noise of 1e-6; last layer of each residual
                           branch 1e-6 times it
    ``sinusoidal``         a different sine wave for each output, without randomness
    =====================  =======================================================================================

    Biases are set to 0, norm weights to 1 and norm biases to 0. Each group of a convolution and each projection of an
    attention layer is initialised separately. The gate of a branch is the scale that multiplies its output, or the
    weight of the norm there. Other parameters (embeddings, scalar biases) are unchanged. Noise is added to all weights
    except the head's.

    Args:
        module: network, traced with torch.fx to find its residual branches and head.
        scheme: one of the above.
        noise_scale: size of the noise relative to He initialisation, see `add_noise_`.
        noise_mode: ``additive`` or ``interpolate``.
        hadamard_scale: ``code`` or ``paper``, for ``hadamard`` alone, see `hadamard_`.

    Returns:
        One row per parameter: its name, the rule applied, and its number of nonzero entries.

    Raises:
        ValueError: for an unknown scheme, or one that does not fit the network, naming the layer.

    Source: Zhang, Dauphin, Ma, "Fixup Initialization", ICLR 2019; Bachlechner et al., "ReZero is All You Need", UAI
    2021; De, Smith, "Batch Normalization Biases Residual Blocks Towards the Identity Function", NeurIPS 2020.
    """
    check_choice("init", scheme, get_args(Init))
    check_choice("noise_mode", noise_mode, get_args(NoiseMode))
    idle = scheme == "default" and noise_scale == 0
    structure = Structure((), None) if idle else find_structure(module)
    plan = None if scheme == "default" else _Plan(scheme, structure, hadamard_scale)
    table = []
    for layer_name, layer in module.named_modules():
        for name, parameter in layer.named_parameters(layer_name, recurse=False):
            rule = plan.apply(layer_name, layer, name, parameter) if plan else "unchanged"
            if noise_scale != 0 and layer_name != structure.head and _is_weight(layer, parameter):
                rule += f" + {noise_mode} noise {noise_scale:g}"
                for part in _parts(layer, parameter):
                    add_noise_(part, noise_scale, noise_mode)
            table.append(Initialized(name, rule, int(parameter.count_nonzero())))
    return table


def zero_(module: nn.Module, hadamard_scale: HadamardScale = "code") -> list[Initialized]:
    """Initialise a network with ZerO, the scheme ``hadamard`` of `initialize`."""
    return initialize(module, "hadamard", hadamard_scale=hadamard_scale)


def perturb_convolutions_(module: nn.Module, scale: float, mode: NoiseMode, slope: float = 0.0) -> None:
    """Add noise to every Conv2d weight of a network, in module order, see `add_noise_`."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            add_noise_(layer.weight, scale, mode, slope)


class _Plan:
    """A recipe applied to one network's structure."""

    def __init__(self, scheme: Init, structure: Structure, hadamard_scale: HadamardScale) -> None:
        self.scheme, self.recipe = scheme, RECIPES[scheme]
        self.weight = partial(init.hadamard_, scale=hadamard_scale) if scheme == "hadamard" else self.recipe.weight
        branches = structure.branches
        if not branches and (self.recipe.scale_branches or self.recipe.gate):
            raise ValueError(f"init {scheme!r} needs residual branches, and this network has none")
        last = self.recipe.last
        self.special = {branch.last: last for branch in branches} if last else {}
        if self.recipe.zero_head and structure.head:
            self.special[structure.head] = nn.init.zeros_
        self.factors: dict[str, float] = {}
        self.gates: dict[str, float] = {}
        for branch in branches:
            depth = len(branch.layers)
            if self.recipe.scale_branches and depth > 1:
                factor = len(branches) ** (-1 / (2 * depth - 2))
                self.factors.update((layer, factor) for layer in branch.layers)
            if self.recipe.gate:
                if branch.gate is None:
                    raise ValueError(
                        f"init {scheme!r} needs a scale or a norm after {branch.last}, the last of a branch"
                    )
                self.gates[branch.gate] = self.recipe.gate(len(branches))

    def apply(self, layer_name: str, layer: nn.Module, name: str, parameter: Tensor) -> str:
        """Initialise one parameter and return the name of the rule."""
        if name in self.gates:
            parameter.fill_(self.gates[name])
            return f"gate {self.gates[name]:g}"
        if _is_weight(layer, parameter):
            return self._weight(layer_name, layer, parameter)
        if not isinstance(layer, (*WEIGHT_LAYERS, *NORM_LAYERS)):
            return "unchanged"
        value = float(isinstance(layer, NORM_LAYERS) and name.endswith("weight"))
        parameter.fill_(value)
        return f"constant {value:g}"

    def _weight(self, layer_name: str, layer: nn.Module, parameter: Tensor) -> str:
        rule = self.special.get(layer_name, self.weight)
        for part in _parts(layer, parameter):
            # A copy, because a transposed view is not contiguous.
            values = part.clone(memory_format=torch.contiguous_format)
            try:
                part.copy_(rule(values))
            except ValueError as error:
                raise ValueError(f"init {self.scheme!r} does not fit {layer_name}: {error}") from error
        if rule is nn.init.zeros_:
            return "constant 0"
        factor = self.factors.get(layer_name, 1.0)
        parameter.mul_(factor)
        if layer_name in self.special:
            return f"{self.scheme}, last layer of a branch"
        return self.scheme if factor == 1 else f"{self.scheme}, times {factor:.4g}"


def _is_weight(layer: nn.Module, parameter: Tensor) -> bool:
    attention = isinstance(layer, nn.MultiheadAttention)
    return isinstance(layer, WEIGHT_LAYERS) and (parameter.ndim == 2 if attention else parameter.ndim > 1)


def _parts(layer: nn.Module, parameter: Tensor) -> list[Tensor]:
    """Return views (C_out, C_in, *kernel), one per group of a convolution or projection of an attention layer."""
    if isinstance(layer, nn.MultiheadAttention) and parameter is layer.in_proj_weight:
        return list(parameter.chunk(3))
    if not isinstance(layer, _ConvNd):
        return [parameter]
    parts = parameter.chunk(layer.groups)
    return [part.transpose(0, 1) for part in parts] if isinstance(layer, _ConvTransposeNd) else list(parts)
