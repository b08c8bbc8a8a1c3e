"""The network and the test images of a run, rebuilt from its config."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from symbreak.callbacks.layers import feature_layers, first_tensor
from symbreak.sweeps.compare.weights import State
from symbreak.sweeps.run.folder import CONFIG
from symbreak.sweeps.run.parser import build_parser


@dataclass(frozen=True)
class Probe:
    """A network in evaluation mode, and the first images of its test set.

    Attributes:
        network: The LightningModule; its own weights are not used.
        images: (N, C, H, W).
        labels: (N,).
    """

    network: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def parameters(self) -> list[str]:
        """Names of the trainable and frozen parameters, without the buffers."""
        return [name for name, _ in self.network.named_parameters()]

    @torch.no_grad()
    def logits(self, state: State) -> Tensor:
        """Return the logits (N, classes) of a state_dict."""
        return functional_call(self.network, state, (self.images,))

    def loss(self, state: State) -> float:
        """Return the mean cross-entropy of a state_dict."""
        return float(cross_entropy(self.logits(state), self.labels))

    def features(self, state: State) -> dict[str, Tensor]:
        """Return the output of each layer with weights as (N, features), by name."""
        found: dict[str, Tensor] = {}
        handles = []
        for layer in feature_layers(self.network):

            def keep(module: nn.Module, args: object, output: object, name: str = layer.name) -> None:
                features = first_tensor(output)
                if features is not None:
                    found[name] = features.detach().flatten(1).float()

            handles.append(layer.module.register_forward_hook(keep))
        try:
            self.logits(state)
        finally:
            for handle in handles:
                handle.remove()
        return found


def make_probe(folder: Path, images: int) -> Probe:
    """Build the network of a run, and load the first images of its test set.

    Raises:
        ValueError: If its config, or the data it names, cannot be used here.
    """
    parser = build_parser()
    config = parser.parse_args(["fit", f"--config={folder / CONFIG}"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = parser.instantiate_classes(config)["fit"]
    made.data.prepare_data()
    made.data.setup("test")
    loader = made.data.test_dataloader()
    size = made.data.batch_size
    batches = list(islice(iter(loader), -(-images // size)))
    inputs, labels = (torch.cat(parts)[:images] for parts in zip(*batches, strict=True))
    return Probe(made.model.eval(), inputs, labels)
