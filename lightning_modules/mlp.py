"""MLP: the fully connected network of ZerO's rank theorem."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from symbreak.lightning_modules.checks import check_range
from symbreak.lightning_modules.classifier import ImageClassifier
from symbreak.lightning_modules.initialization import HadamardScale, NoiseMode
from symbreak.lightning_modules.schemes import Init, initialize


class MLP(ImageClassifier):
    """Linear layers with ReLU between them: (H * W * C) -> width -> ... -> width -> num_classes.

    With init="partial_identity" and no weight decay, the rank of W - I of a hidden square layer never
    exceeds the input's dimension (theorem 1 of the source); with ``hadamard`` (ZerO) it does.

    Source: Zhao, Schaefer, Anandkumar, "ZerO Initialization", TMLR 2022.

    Args:
        depth: number of linear layers, at least 2.
        width: outputs of every layer except the last.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels.
        init: initialisation, see `initialize`.
        hadamard_scale: ``code`` or ``paper``, for ``hadamard`` only.
        noise_scale: size of the noise on every weight except the head's, relative to He initialisation.
        noise_mode: ``additive`` or ``interpolate``, see `add_noise_`.
        frozen_layers: patterns of parameters that stay as initialised, see `ImageClassifier.freeze_layers`.

    Raises:
        ValueError: for sizes out of range, or an initialisation that does not fit.
    """

    def __init__(
        self,
        depth: int = 4,
        width: int = 2048,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 8,
        init: Init = "hadamard",
        hadamard_scale: HadamardScale = "code",
        noise_scale: float = 0.0,
        noise_mode: NoiseMode = "additive",
        frozen_layers: Sequence[str] = (),
    ) -> None:
        check_range("depth", depth, 2)
        check_range("width", width, 1)
        check_range("image_size", image_size, 1)
        super().__init__(num_classes, in_channels)
        self.save_hyperparameters()
        self.image_shape = (in_channels, image_size, image_size)
        inputs = math.prod(self.image_shape)
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, num_classes))
        initialize(self.layers, init, noise_scale, noise_mode, hadamard_scale)
        self.freeze_layers(frozen_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, image_size, image_size).

        Raises:
            ValueError: for images of another size.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images of shape {tuple(images.shape[1:])}: image_size expects {self.image_shape}")
        return self.layers(images.flatten(1))
