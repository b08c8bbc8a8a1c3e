"""ResNet: torchvision's for small images, and CIFAR ResNets of depth 6n + 2 with optional BatchNorm."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from symbreak.lightning_modules.checks import check_choice, check_depth, check_range
from symbreak.lightning_modules.classifier import ImageClassifier
from symbreak.lightning_modules.initialization import HadamardScale, NoiseMode
from symbreak.lightning_modules.layers import Regularizer, ScalarBias, ScalarScale, make_regularizer
from symbreak.lightning_modules.schemes import Init, initialize

Family = Literal["torchvision", "cifar"]
Norm = Literal["batch", "scalar"]
TORCHVISION_DEPTHS = (18, 34, 50)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + branch(x)): two 3x3 convolutions in the branch, a 1x1 in a shortcut that changes shape.

    norm="batch": BatchNorm after each convolution. norm="scalar": as in Fixup, a trainable scalar bias before each
    convolution and before the second relu, and s * h + b at the end of the branch.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, regularizer: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        batch = norm == "batch"
        self.bias1 = nn.Identity() if batch else ScalarBias()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels) if batch else ScalarBias()
        self.bias2 = nn.Identity() if batch else ScalarBias()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels) if batch else nn.Sequential(ScalarScale(), ScalarBias())
        self.regularizer = regularizer()
        self.shortcut = nn.Identity()
        if in_channels != out_channels or stride > 1:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels)) if batch else conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        h = torch.relu(self.norm1(self.conv1(self.bias1(x))))
        branch = self.norm2(self.conv2(self.bias2(h)))
        return torch.relu(self.shortcut(x) + self.regularizer(branch))


class CifarResNet(nn.Module):
    """Stem, three groups of residual blocks and a linear head, see `ResNet`."""

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        in_channels: int,
        norm: Norm,
        regularizer: Callable[[], nn.Module],
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width) if norm == "batch" else ScalarBias()
        blocks: list[ResidualBlock] = []
        for group, (narrow, wide) in enumerate(pairwise((width, width, 2 * width, 4 * width))):
            for index in range((depth - 2) // 6):
                first = index == 0
                stride = 2 if first and group > 0 else 1
                blocks.append(ResidualBlock(narrow if first else wide, wide, stride, norm, regularizer))
        self.blocks = nn.Sequential(*blocks)
        self.head_bias = nn.Identity() if norm == "batch" else ScalarBias()
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, H, W)."""
        features = torch.relu(self.stem_norm(self.stem(images)))
        if self.checkpointing and self.training:
            segments = math.isqrt(len(self.blocks))
            features = checkpoint_sequential(self.blocks, segments, features, use_reentrant=False)
        else:
            features = self.blocks(features)
        # A plain mean: the backward of an adaptive pool is not deterministic on CUDA.
        return self.head(self.head_bias(features.mean(dim=(2, 3))))


def small_image_resnet(depth: int, num_classes: int, in_channels: int) -> nn.Module:
    """Return torchvision's ResNet with a 3x3 stem of stride 1, without max pool and without in-place ReLU."""
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return network


class ResNet(ImageClassifier):
    """Residual network with any initialisation.

    family="torchvision": resnet18, 34 or 50 with a 3x3 stem of stride 1 and no max pool, for small images.
    family="cifar": depth 6n + 2, three groups of n blocks of two convolutions, widths w, 2w, 4w and strides 1, 2, 2;
    with norm="scalar" it has no normalisation and trains to depth 500 under ``hadamard`` (ZerO) or ``fixup``.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Zhang, Dauphin, Ma, "Fixup
    Initialization", ICLR 2019; Zhao, Schaefer, Anandkumar, "ZerO Initialization", TMLR 2022.

    Args:
        depth: 18, 34 or 50 of family ``torchvision``, 6n + 2 of family ``cifar``.
        family: ``torchvision`` or ``cifar``.
        num_classes: number of logits.
        in_channels: channels of the images.
        init: initialisation, see `initialize`.
        hadamard_scale: ``code`` or ``paper``, for ``hadamard`` only.
        noise_scale: size of the noise on every weight except the head's, relative to He initialisation.
        noise_mode: ``additive`` or ``interpolate``, see `add_noise_`.
        frozen_layers: patterns of parameters that stay as initialised, see `ImageClassifier.freeze_layers`.
        norm: ``batch`` or ``scalar``; family ``torchvision`` has only ``batch``.
        width: the w of family ``cifar``.
        dropout: rate of the regulariser on every branch of family ``cifar``.
        regularizer: ``dropout`` or ``disout``.
        checkpointing: recompute activations in the backward pass: memory of order sqrt(depth), a third more time. Only
            for family ``cifar`` with norm="scalar": BatchNorm statistics would be updated twice per batch.

    Raises:
        ValueError: for a depth or option that the family lacks, or an argument out of range.
    """

    def __init__(
        self,
        depth: int = 18,
        family: Family = "torchvision",
        num_classes: int = 10,
        in_channels: int = 3,
        init: Init = "he",
        hadamard_scale: HadamardScale = "code",
        noise_scale: float = 0.0,
        noise_mode: NoiseMode = "additive",
        frozen_layers: Sequence[str] = (),
        norm: Norm = "batch",
        width: int = 16,
        dropout: float = 0.0,
        regularizer: Regularizer = "dropout",
        checkpointing: bool = False,
    ) -> None:
        check_choice("family", family, get_args(Family))
        check_choice("norm", norm, get_args(Norm))
        check_range("width", width, 1)
        _check_options(
            depth,
            family,
            {
                "norm='scalar'": norm == "scalar",
                "width": width != 16,
                "dropout": dropout > 0,
                "checkpointing": checkpointing,
            },
        )
        if checkpointing and norm == "batch":
            raise ValueError("checkpointing counts every batch twice in norm='batch': use norm='scalar'")
        super().__init__(num_classes, in_channels)
        self.save_hyperparameters()
        if family == "torchvision":
            self.network = small_image_resnet(depth, num_classes, in_channels)
        else:
            regular = partial(make_regularizer, regularizer, dropout)
            self.network = CifarResNet(depth, width, num_classes, in_channels, norm, regular, checkpointing)
        initialize(self.network, init, noise_scale, noise_mode, hadamard_scale)
        self.freeze_layers(frozen_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, H, W)."""
        return self.network(images)


def _check_options(depth: int, family: Family, cifar_only: dict[str, bool]) -> None:
    if family == "cifar":
        check_depth("ResNet of family 'cifar'", depth, 6, 2)
        return
    if depth not in TORCHVISION_DEPTHS:
        raise ValueError(f"depth={depth}: ResNet of family 'torchvision' has depth 18, 34 or 50")
    for name, given in cifar_only.items():
        if given:
            raise ValueError(f"{name}: ResNet of family 'torchvision' has no such option, family 'cifar' has")
