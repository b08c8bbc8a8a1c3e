"""ImageClassifier: optimiser and frozen layers of all image classifiers, without architecture."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from symbreak.lightning_modules.checks import check_range
from symbreak.lightning_modules.supervised import SupervisedModule

SGD_DEFAULTS: dict[str, Any] = {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4}


class ImageClassifier(SupervisedModule):
    """Base of image classifiers: subclasses build layers and define ``forward(images) -> logits``.

    ======================================  ==============================================================
    key                                     meaning
    ======================================  ==============================================================
    ``train/loss``, ``train/accuracy``      mean over the samples since the last logged step, logged every
                                            ``trainer.log_every_n_steps`` updates
    ``val/loss``, ``val/accuracy``          mean over the validation set
    ``test/loss``, ``test/accuracy``        mean over the test set
    ======================================  ==============================================================

    Images are (N, in_channels, height, width); targets are class indices (N,) or soft targets (N, num_classes).

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 1)
        check_range("in_channels", in_channels, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with `SGD_DEFAULTS`, used unless the command line sets an optimiser."""
        return torch.optim.SGD(self.parameters(), **SGD_DEFAULTS)

    def freeze_layers(self, patterns: Sequence[str]) -> None:
        """Freeze each parameter whose dotted name, or that of a parent module, matches a shell-style pattern.

        Raises:
            ValueError: for a pattern without a match, naming the available modules.
        """
        for pattern in patterns:
            matched = [p for name, p in self.named_parameters() if _matches(name, pattern)]
            if not matched:
                names = ", ".join(name for name, child in self.named_modules() if name and list(child.parameters()))
                raise ValueError(f"frozen_layers: {pattern!r} matches no parameter; there are {names}")
            for parameter in matched:
                parameter.requires_grad_(False)


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))
