"""Modules that are trained by their import path."""

import torch
from torch import nn

from symbreak.lightning_modules import ImageClassifier


class Noisy(ImageClassifier):
    """Adds numbers of a generator without a seed."""

    after = 0  # forward passes

    def __init__(self, num_classes: int = 10, in_channels: int = 1):
        super().__init__(num_classes, in_channels)
        self.convolution, self.head = nn.Conv2d(in_channels, 8, 3), nn.Linear(8, num_classes)
        self.generator, self.passes = torch.Generator(), 0

    def forward(self, images):
        features = self.convolution(images).mean((2, 3))
        self.passes += 1
        if self.passes > self.after:
            self.generator.seed()
            features = features + torch.rand(features.shape, generator=self.generator)
        return self.head(features)


class LateNoisy(Noisy):
    """The same after five forward passes."""

    after = 5
