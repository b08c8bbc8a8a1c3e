"""Initialisers of single weights: in-place functions on tensors of shape (C_out, C_in, *kernel).

A linear layer's weight (C_out, C_in) counts as a convolution with one tap. Random draws come from
torch's global generator. Every function returns the tensor it changed. `schemes.initialize` applies
them to whole networks.
"""

import math
from typing import Literal, get_args

import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from symbreak.lightning_modules.checks import check_choice, check_range

NoiseMode = Literal["additive", "interpolate"]
HadamardScale = Literal["code", "paper"]
Fan = Literal["fan_in", "fan_out"]
MAX_NOISE = 1e6
"""Largest size of noise relative to He initialisation; weights stay far from overflow in float32."""


def centre_tap(weight: Tensor) -> Tensor:
    """Return a view (C_out, C_in) of the kernel's centre tap, at index size // 2 of each dimension."""
    return weight[(..., *(size // 2 for size in weight.shape[2:]))]


@torch.no_grad()
def averaging_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Set every output to the mean of all inputs: scale / C_in at the centre tap, 0 elsewhere.

    Source: Blumenfeld, Gilboa, Soudry, "Beyond Signal Propagation", ICML 2020.
    """
    return _delta_(weight, torch.full(weight.shape[:2], scale / weight.shape[1], dtype=torch.float64))


@torch.no_grad()
def identity_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Set every output to the input of the same index: ``scale`` at W[d, d, centre], 0 elsewhere.

    Raises:
        ValueError: unless C_out = C_in.
    """
    outputs, inputs = weight.shape[:2]
    if outputs != inputs:
        raise ValueError(
            f"identity needs as many outputs as inputs, got {outputs} and {inputs}: "
            "use cyclic_identity or partial_identity"
        )
    return cyclic_identity_(weight, scale)


@torch.no_grad()
def cyclic_identity_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Assign outputs to inputs cyclically: ``scale`` at W[d, d mod C_in, centre], 0 elsewhere.

    Source: Blumenfeld, Gilboa, Soudry, "Beyond Signal Propagation", ICML 2020.
    """
    outputs, inputs = weight.shape[:2]
    return _delta_(weight, scale * torch.eye(inputs, dtype=torch.float64)[torch.arange(outputs) % inputs])


@torch.no_grad()
def partial_identity_(weight: Tensor) -> Tensor:
    """Set the main diagonal of the centre tap to 1 and all else to 0; outputs beyond C_in are 0."""
    return _delta_(weight, torch.eye(*weight.shape[:2]))


@torch.no_grad()
def hadamard_(weight: Tensor, scale: HadamardScale = "code") -> Tensor:
    """Set the centre tap to ZerO's matrix and all else to 0, for P = C_out outputs and Q = C_in inputs.

    P <= Q: the (partial) identity. P > Q: the first P rows and Q columns of the Hadamard matrix H of order
    2^m, m = ceil(log2 P), that is I(P x 2^m) H I(2^m x Q), times 2^(-m/2) (``code``, the published
    implementation, which keeps norms up to the truncation) or 2^(-(m-1)/2) (``paper``, its text).

    Source: Zhao, Schaefer, Anandkumar, "ZerO Initialization", TMLR 2022, algorithm 1.
    """
    check_choice("hadamard_scale", scale, get_args(HadamardScale))
    outputs, inputs = weight.shape[:2]
    if outputs <= inputs:
        return partial_identity_(weight)
    log_order = (outputs - 1).bit_length()
    signs = torch.from_numpy(hadamard(2**log_order)[:outputs, :inputs]).double()
    exponent = log_order if scale == "code" else log_order - 1
    return _delta_(weight, signs * 2 ** (-exponent / 2))


@torch.no_grad()
def padded_identity_(weight: Tensor, scale: float = 1.0, noise: float = 0.0) -> Tensor:
    """Set W[i, j] to ``scale`` where i = j modulo min(P, Q), to 0 elsewhere, and add N(0, noise^2); IDInit's matrix.

    The weight is read as a matrix of P = C_out rows and Q = C_in * taps columns in memory order, so that the outputs
    of a convolution copy different taps. IDInit uses scale 1 to preserve the identity, and 1e-6 to preserve zero in the
    last layer of a residual branch; its noise of 1e-6 makes repeated rows differ.

    Source: Pan et al., "IDInit: A Universal and Stable Initialization Method for Neural Network Training", ICLR 2025.
    """
    outputs, inputs = weight.shape[0], weight[0].numel()
    size = min(outputs, inputs)
    matrix = scale * (torch.arange(outputs)[:, None] % size == torch.arange(inputs) % size).double()
    weight.copy_(matrix.view(weight.shape))
    return weight.add_(torch.randn_like(weight), alpha=noise) if noise else weight


@torch.no_grad()
def sinusoidal_(weight: Tensor) -> Tensor:
    """Set W[i, j] = a sin(2 pi i j / n + 2 pi i / m), i = 1 ... m outputs, j = 0 ... n - 1 inputs times taps.

    The amplitude a gives the entries the variance 2 / (m + n) (unbiased estimate). No random number is drawn.

    Source: Fernandez-Hernandez et al., "Sinusoidal Initialization, Time for a New Start", NeurIPS 2025, and its code.
    """
    outputs, inputs = weight.shape[0], weight[0].numel()
    rows, columns = torch.arange(1, outputs + 1, dtype=torch.float64), torch.arange(inputs, dtype=torch.float64)
    waves = torch.sin(2 * math.pi * rows[:, None] * (columns / inputs + 1 / outputs))
    spread = waves.var()
    if not spread > 1e-12:  # NaN for a single entry
        raise ValueError(f"a matrix of {outputs} outputs and {inputs} inputs has no sinusoidal pattern")
    return weight.copy_((waves * (2 / (spread * (outputs + inputs))).sqrt()).view(weight.shape))


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Set to ``gain`` times a random (semi-)orthogonal matrix of shape (C_out, C_in * taps).

    Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning", ICLR 2014.
    """
    return nn.init.orthogonal_(weight, gain)


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Set the centre tap to ``gain`` times a random (semi-)orthogonal matrix (C_out, C_in), all else to 0.

    Norms are preserved (times gain) if C_out >= C_in, the case of the source.

    Source: Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs", ICML 2018, algorithm 1.
    """
    return _delta_(weight, nn.init.orthogonal_(torch.empty(weight.shape[:2], dtype=torch.float64), gain))


def he_(weight: Tensor, gain: float = 2.0, fan: Fan = "fan_out") -> Tensor:
    """Draw from N(0, gain / fan), with fan_out = C_out * taps, fan_in = C_in * taps; gain scales the variance.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10 (fan_in) and 14 (fan_out).
    """
    return nn.init.normal_(weight, std=he_std(weight, gain, fan))


def he_std(weight: Tensor, gain: float = 2.0, fan: Fan = "fan_out") -> float:
    """Return the standard deviation sqrt(gain / fan) of `he_`."""
    channels = weight.shape[0 if fan == "fan_out" else 1]
    return math.sqrt(gain / (channels * math.prod(weight.shape[2:])))


def xavier_(weight: Tensor) -> Tensor:
    """Draw from N(0, 2 / (fan_in + fan_out)).

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    return nn.init.xavier_normal_(weight)


@torch.no_grad()
def add_noise_(weight: Tensor, scale: float, mode: NoiseMode = "additive", slope: float = 0.0) -> Tensor:
    """Add Gaussian noise to a weight; scale 0 changes nothing and draws no random number.

    ``additive``: W + scale * N(0, he_std(W)^2). ``interpolate``: c W + N(0, g (1 - c) / fan_in), with
    c = 1 - scale and g = sqrt(2) (1 + slope), fan_in = C_in * taps, slope that of the leaky ReLU (0 for ReLU).

    Args:
        weight: tensor (C_out, C_in, *kernel), changed in place.
        scale: relative size of the noise, 0 to `MAX_NOISE`; at most 1 with ``interpolate``.
        mode: ``additive`` or ``interpolate``.
        slope: negative slope of the activation, used by ``interpolate`` only.

    Raises:
        ValueError: for an unknown mode or a scale out of range.
    """
    check_choice("noise_mode", mode, get_args(NoiseMode))
    check_range("noise_scale", scale, 0, MAX_NOISE if mode == "additive" else 1)
    if scale == 0:
        return weight
    noise = torch.randn_like(weight)
    if mode == "additive":
        return weight.add_(noise, alpha=scale * he_std(weight))
    gain = math.sqrt(2) * (1 + slope)
    return weight.mul_(1 - scale).add_(noise, alpha=he_std(weight, gain * scale, "fan_in"))


def _delta_(weight: Tensor, matrix: Tensor) -> Tensor:
    weight.zero_()
    centre_tap(weight).copy_(matrix)
    return weight
