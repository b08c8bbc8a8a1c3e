"""LeakyNet: a network without skip connections whose blocks can be initialised as the identity."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from symbreak.lightning_modules.checks import check_depth, check_range
from symbreak.lightning_modules.classifier import ImageClassifier
from symbreak.lightning_modules.initialization import NoiseMode, add_noise_, averaging_, cyclic_identity_, he_
from symbreak.lightning_modules.layers import Regularizer, ScalarBias, make_regularizer
from symbreak.lightning_modules.schemes import Init, initialize, perturb_convolutions_

LETTERS = {
    "1": "averaging",
    "i": "identity",
    "h": "random",
    "k": "noisy identity",
    "n": "noisy averaging",
}
PUBLISHED_INITS = (
    "h_hhhh_hhhh_hhhh",
    "i_iiii_iiii_iiii",
    "1_iiii_iiii_iiii",
    "1_iiii_11ii_iiii",
    "1_iiii_1111_iiii",
    "1_ii11_ii11_ii11",
    "1_1111_1111_1111",
)
NOISY_SHARE = 0.01


class LeakyBlock(nn.Module):
    """lrelu(conv(x + b)), dropout, and BatchNorm in every second block; b is a trainable scalar."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: bool,
        slope: float,
        regularizer: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.bias = ScalarBias()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.slope = slope
        self.regularizer = regularizer()
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.norm(self.regularizer(functional.leaky_relu(self.conv(self.bias(x)), self.slope)))


class LeakyNet(ImageClassifier):
    """Plain network of leaky ReLU blocks; one letter per block selects the initialisation.

    A 16-wide stem, then three groups of n = (depth - 4) / 3 blocks of widths 16k, 32k, 64k and strides 1, 2, 2, then
    leaky ReLU, mean over space and a linear head of zeros. The first letter of ``init`` sets the stem, the others
    the 3n blocks; underscores are ignored. Even blocks have phase +1, odd blocks -1, and the structured
    weights of odd blocks are divided by the slope, so that a pair of blocks maps x to -x.

    ======  ===============================================================================================
    letter  weight
    ======  ===============================================================================================
    ``1``   averaging: phase / C_in at the centre tap
    ``i``   identity: phase at W[d, d mod C_in, centre]
    ``h``   random: N(0, g / fan_in), g = sqrt(2) (1 + slope)
    ``k``   noisy identity: c * identity + N(0, g (1 - c) / fan_in), c = 0.99
    ``n``   noisy averaging: the same with averaging in place of identity
    ======  ===============================================================================================

    Source: Blumenfeld, Gilboa, Soudry, "Beyond Signal Propagation", ICML 2020.

    Args:
        depth: 3n + 4.
        widen_factor: the k of the widths.
        num_classes: number of logits.
        in_channels: channels of the images.
        init: 3n + 1 letters (`PUBLISHED_INITS`: those of the source at depth 16), or a scheme of `initialize`.
        negative_slope: slope of the leaky ReLU, above 0 and at most 1.
        noise_scale: size of the noise on every convolution weight, relative to He initialisation.
        noise_mode: ``additive`` or ``interpolate``, see `add_noise_`.
        dropout: rate of the regulariser in every block, in [0, 1].
        regularizer: ``dropout`` or ``disout``.
        frozen_layers: patterns of parameters that stay as initialised, see `ImageClassifier.freeze_layers`.

    Raises:
        ValueError: for an invalid depth, a wrong number of letters, an unknown letter, or an argument out of range.
    """

    def __init__(
        self,
        depth: int = 16,
        widen_factor: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        init: str = "1_iiii_iiii_iiii",
        negative_slope: float = 0.01,
        noise_scale: float = 0.0,
        noise_mode: NoiseMode = "additive",
        dropout: float = 0.0,
        regularizer: Regularizer = "dropout",
        frozen_layers: Sequence[str] = (),
    ) -> None:
        check_depth("LeakyNet", depth, 3, 4)
        check_range("widen_factor", widen_factor, 1)
        check_range("negative_slope", negative_slope, 1e-6, 1)
        letters = None if init in get_args(Init) else parse_init(init, depth)
        super().__init__(num_classes, in_channels)
        self.save_hyperparameters()
        self.slope = negative_slope
        widths = [16, *(16 * widen_factor * 2**group for group in range(3))]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        regular = partial(make_regularizer, regularizer, dropout)
        blocks: list[LeakyBlock] = []
        for group, (narrow, wide) in enumerate(pairwise(widths)):
            for index in range((depth - 4) // 3):
                first, odd = index == 0, len(blocks) % 2 == 1
                stride = 2 if first and group > 0 else 1
                blocks.append(LeakyBlock(narrow if first else wide, wide, stride, odd, negative_slope, regular))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes)
        if letters is None:
            initialize(self, cast(Init, init))
        else:
            self._initialize(letters, blocks)
        perturb_convolutions_(self, noise_scale, noise_mode, negative_slope)
        self.freeze_layers(frozen_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, H, W)."""
        features = functional.leaky_relu(self.blocks(self.stem(images)), self.slope)
        return self.head(features.mean(dim=(2, 3)))

    def _initialize(self, letters: str, blocks: Sequence[LeakyBlock]) -> None:
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        letter_(self.stem.weight, letters[0], self.slope)
        for index, (block, letter) in enumerate(zip(blocks, letters[1:], strict=True)):
            letter_(block.conv.weight, letter, self.slope, odd=index % 2 == 1)


def parse_init(init: str, depth: int) -> str:
    """Return the letters of ``init`` without underscores.

    Raises:
        ValueError: unless they are depth - 3 known letters.
    """
    letters = init.replace("_", "")
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown or len(letters) != depth - 3:
        problem = f"unknown letter {unknown[0]!r}" if unknown else f"{len(letters)} letters"
        meanings = ", ".join(f"{letter} {meaning}" for letter, meaning in LETTERS.items())
        raise ValueError(
            f"init={init!r} has {problem}: depth {depth} takes {depth - 3} letters, one for the stem and one for each "
            f"block, out of {meanings}; or give one of {', '.join(get_args(Init))}"
        )
    return letters


@torch.no_grad()
def letter_(weight: Tensor, letter: str, slope: float, odd: bool = False) -> Tensor:
    """Initialise one convolution weight as its letter says, see `LeakyNet`."""
    if letter == "h":
        return he_(weight, math.sqrt(2) * (1 + slope), "fan_in")
    scale = -1 / slope if odd else 1.0
    structured_ = averaging_ if letter in "1n" else cyclic_identity_
    structured_(weight, scale)
    return add_noise_(weight, NOISY_SHARE if letter in "kn" else 0.0, "interpolate", slope)
