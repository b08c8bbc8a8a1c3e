"""ConstNet: a residual network whose channels can be initialised equal."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from symbreak.lightning_modules.checks import check_choice, check_depth, check_range
from symbreak.lightning_modules.classifier import ImageClassifier
from symbreak.lightning_modules.initialization import NoiseMode, he_
from symbreak.lightning_modules.layers import Regularizer, ScalarBias, ScalarScale, make_regularizer
from symbreak.lightning_modules.schemes import Init, initialize, perturb_convolutions_

Norm = Literal["batch", "scalar"]


class ConstBlock(nn.Module):
    """shortcut + dropout(branch), with h = relu(norm(x)) and branch = 3x3 convolution of h.

    The shortcut is x, or a 1x1 convolution of h where the width changes. norm="scalar" has
    h = relu(x + b1) and branch = s * (conv(h) + b2), with trainable scalars in place of BatchNorm.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, regularizer: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        batch = norm == "batch"
        self.norm = nn.BatchNorm2d(in_channels) if batch else ScalarBias()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.affine = nn.Identity() if batch else nn.Sequential(ScalarBias(), ScalarScale())
        self.regularizer = regularizer()
        same = in_channels == out_channels
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        h = torch.relu(self.norm(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return shortcut + self.regularizer(self.affine(self.conv(h)))


class ConstNet(ImageClassifier):
    """Residual network of single-convolution blocks; with init="zero" all features start equal.

    A 16-wide stem, then three groups of n = (depth - 4) / 3 blocks of widths 16k, 32k, 64k and strides 1, 2, 2,
    then relu, mean over space and a linear head. init="zero": stem and shortcuts average their inputs, branches
    and head are 0. init="he": branches N(0, 2 / (k*k*C_out)), stem and shortcuts N(0, 1 / (k*k*C_out)), head 0.

    Source: Blumenfeld, Gilboa, Soudry, "Beyond Signal Propagation", ICML 2020.

    Args:
        depth: 3n + 4.
        widen_factor: the k of the widths.
        num_classes: number of logits.
        in_channels: channels of the images.
        init: ``zero``, ``he`` as above, or another initialisation of `initialize`.
        norm: ``batch`` for BatchNorm2d, ``scalar`` for trainable scalars and no normalisation.
        final_relu: apply a ReLU before the mean. With init="zero" most of its inputs are initially exactly 0, so
            initial noise of any size selects the inputs that pass a gradient. Disable it to infer the noise's size from
            the escape step.
        noise_scale: size of the noise on every convolution weight, relative to He initialisation.
        noise_mode: ``additive`` or ``interpolate``, see `add_noise_`.
        dropout: rate of the regulariser on every branch, in [0, 1].
        stem_dropout: also apply the regulariser to the stem's output.
        regularizer: ``dropout`` or ``disout``.
        frozen_layers: patterns of parameters that stay as initialised, see `ImageClassifier.freeze_layers`.

    Raises:
        ValueError: for an invalid depth, or an argument out of range.
    """

    def __init__(
        self,
        depth: int = 16,
        widen_factor: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        init: Init = "zero",
        norm: Norm = "batch",
        final_relu: bool = True,
        noise_scale: float = 0.0,
        noise_mode: NoiseMode = "additive",
        dropout: float = 0.0,
        stem_dropout: bool = False,
        regularizer: Regularizer = "dropout",
        frozen_layers: Sequence[str] = (),
    ) -> None:
        check_depth("ConstNet", depth, 3, 4)
        check_range("widen_factor", widen_factor, 1)
        check_choice("init", init, get_args(Init))
        check_choice("norm", norm, get_args(Norm))
        super().__init__(num_classes, in_channels)
        self.save_hyperparameters()
        widths = [16, *(16 * widen_factor * 2**group for group in range(3))]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        regular = partial(make_regularizer, regularizer, dropout)
        self.stem_dropout = regular() if stem_dropout else nn.Identity()
        blocks: list[ConstBlock] = []
        for group, (narrow, wide) in enumerate(pairwise(widths)):
            for index in range((depth - 4) // 3):
                first = index == 0
                stride = 2 if first and group > 0 else 1
                blocks.append(ConstBlock(narrow if first else wide, wide, stride, norm, regular))
        self.blocks = nn.Sequential(*blocks)
        self.final_relu = final_relu
        self.head = nn.Linear(widths[-1], num_classes)
        self._initialize(init)
        perturb_convolutions_(self, noise_scale, noise_mode)
        self.freeze_layers(frozen_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, H, W)."""
        features = self.blocks(self.stem_dropout(self.stem(images)))
        features = torch.relu(features) if self.final_relu else features
        # A plain mean: the backward of an adaptive pool is not deterministic on CUDA.
        return self.head(features.mean(dim=(2, 3)))

    def _initialize(self, init: Init) -> None:
        if init != "he":
            initialize(self, init)
            return
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                he_(layer.weight, gain=2.0 if name.endswith(".conv") else 1.0)
