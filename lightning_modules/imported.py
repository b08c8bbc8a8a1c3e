"""Networks of other packages, by import path."""

import inspect
import pkgutil
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from symbreak.lightning_modules.classifier import ImageClassifier
from symbreak.lightning_modules.initialization import NoiseMode
from symbreak.lightning_modules.schemes import Init, initialize


class ImportedNetwork(ImageClassifier):
    """Wrap the network at an import path, with any initialisation.

    Args:
        network: import path of a class or function that returns a network, such as ``torchvision.models.resnet18``.
        num_classes: number of logits.
        in_channels: channels of the images; a single channel is repeated if the network expects more.
        network_args: keyword arguments of the network; num_classes and in_channels are added if accepted.
        init: initialisation, see `initialize`.
        noise_scale: size of the noise on every weight except the head's, relative to He initialisation.
        noise_mode: ``additive`` or ``interpolate``, see `add_noise_`.
        frozen_layers: patterns of parameters that stay as initialised, see `ImageClassifier.freeze_layers`.

    Raises:
        ValueError: for sizes below 1, or a network that cannot be imported, built or initialised with these arguments.
    """

    def __init__(
        self,
        network: str,
        num_classes: int = 10,
        in_channels: int = 3,
        network_args: dict[str, Any] | None = None,
        init: Init = "default",
        noise_scale: float = 0.0,
        noise_mode: NoiseMode = "additive",
        frozen_layers: Sequence[str] = (),
    ) -> None:
        super().__init__(num_classes, in_channels)
        self.save_hyperparameters()
        self.network = import_network(network, network_args or {}, num_classes, in_channels)
        self.channels = input_channels(self.network, in_channels)
        initialize(self.network, init, noise_scale, noise_mode)
        self.freeze_layers(frozen_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, in_channels, H, W)."""
        return self.network(images.expand(-1, self.channels, -1, -1))


def import_network(path: str, arguments: dict[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """Build the network at the import path ``path``.

    ``num_classes`` and ``in_channels`` are added to ``arguments`` if the signature names them, ``num_classes`` also
    if it accepts ``**kwargs``, as torchvision's models do.

    Raises:
        ValueError: if the import fails, the arguments are not accepted, or the result is no nn.Module.
    """
    try:
        make = pkgutil.resolve_name(path)
        parameters = inspect.signature(make).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"network={path!r} cannot be imported ({error}): expected a path like 'torchvision.models.resnet18'"
        ) from error
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = {"in_channels": in_channels} if "in_channels" in parameters else {}
    if "num_classes" in parameters or open_ended:
        known["num_classes"] = num_classes
    try:
        network = make(**(known | arguments))
    except TypeError as error:
        raise ValueError(f"network={path!r} does not take network_args={arguments}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network={path!r} makes a {type(network).__name__}, expected a torch.nn.Module")
    return network


def input_channels(network: nn.Module, in_channels: int) -> int:
    """Return the number of input channels of the first convolution; grey images are repeated to it.

    Raises:
        ValueError: if it differs from the number of image channels, and that is above 1.
    """
    first = next((layer for layer in network.modules() if isinstance(layer, _ConvNd)), None)
    if first is None or first.in_channels == in_channels:
        return in_channels
    if in_channels > 1:
        raise ValueError(f"the network takes {first.in_channels} channels, the images have {in_channels}")
    return first.in_channels
