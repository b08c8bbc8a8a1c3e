"""Perturb weights once, at a chosen step, reproducibly."""

import math
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from symbreak.callbacks.announce import announce

Kind = Literal["none", "bit", "ulp", "noise"]
Scope = Literal["weight", "layer", "all"]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtypes by size in bytes, to view the bits of floating-point numbers."""
MAX_SCALE = 1e6
"""Largest noise relative to He initialisation, as of a network's ``noise_scale``."""


class Perturbation(Callback):
    """Change one weight, one layer or all weights at the start of one optimiser step.

    ============================  ====================================================================
    key                           meaning
    ============================  ====================================================================
    ``perturbation/entries``      number of weights that changed in at least one bit
    ``perturbation/distance``     Euclidean norm of the change
    ============================  ====================================================================

    Both keys are logged once, at the step of the change, which is also announced. The change happens before the forward
    pass of the step. Weights are all trainable parameters of two or more dimensions. The change is drawn on the CPU
    from a separate generator, so that it is the same on every rank and device and does not affect other random numbers.
    A run that resumes after the step does not change weights again.

    Args:
        kind: ``none``; ``bit`` flips a bit; ``ulp`` moves to a neighbouring floating-point number, up or down at random
            (a weight that is exactly 0 moves away from 0); ``noise`` adds scale * N(0, 2 / fan_out), with fan_out
            = C_out * taps: the noise that a network's ``noise_scale`` adds to a convolution before training.
        step: Optimiser step before which the change is made, counted from 0.
        scope: ``weight`` changes one entry, drawn uniformly from all entries; ``layer`` changes every entry of one
            layer, drawn uniformly from the layers; ``all`` changes every entry of every layer.
        scale: Size of the noise relative to He initialisation.
        bit: Index of the bit to flip, counted from the least significant: 0 is one unit in the last place.
        layers: Patterns of the layers that may be changed, such as ``["blocks.*"]``; empty for all.
        seed: Seed of the draws; None derives it from the global seed of Lightning's ``seed_everything``, or from 0
            without one.

    Warns if training begins after the step or ends before it.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        kind: Kind = "none",
        step: int = 0,
        scope: Scope = "weight",
        scale: float = 1e-3,
        bit: int = 0,
        layers: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        for name, value, allowed in (("kind", kind, get_args(Kind)), ("scope", scope, get_args(Scope))):
            if value not in allowed:
                raise ValueError(f"perturbation {name} {value!r} is unknown; allowed: {', '.join(allowed)}")
        if step < 0 or bit < 0 or (seed is not None and seed < 0):
            raise ValueError(f"perturbation step={step}, bit={bit}, seed={seed}: expected 0 or more")
        if not (0 <= scale <= MAX_SCALE):
            raise ValueError(f"perturbation scale={scale} is not allowed: 0 to {MAX_SCALE:g}")
        self.kind: Kind = kind
        self.scope: Scope = scope
        self.step, self.scale, self.bit = step, scale, bit
        self.layers, self.seed = tuple(layers), seed
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state of an earlier fit, and find the weights, so that patterns are checked before training.

        Raises:
            ValueError: If no weight matches the patterns, or ``bit`` exceeds the weights' dtype.
        """
        if stage != "fit":
            return
        self._done = False
        if self.kind == "none":
            return
        weights = weights_of(pl_module, self.layers)
        if not weights:
            raise ValueError(f"perturbation layers={list(self.layers)}: no trainable weight matches")
        bits = min(8 * weight.element_size() for weight in weights.values())
        if self.kind == "bit" and self.bit >= bits:
            raise ValueError(f"perturbation bit={self.bit} is not allowed: the weights have bits 0 to {bits - 1}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if training begins after the step or ends before it."""
        last = trainer.estimated_stepping_batches
        if self.kind != "none" and not self._done and not trainer.global_step <= self.step < last:
            span = f"training goes from step {trainer.global_step} to {last}"
            rank_zero_warn(f"perturbation step={self.step} is never reached: {span}.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the change at the start of its step."""
        if self._done or self.kind == "none" or trainer.global_step != self.step:
            return
        self._done = True
        weights = weights_of(pl_module, self.layers)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        where = perturb_(weights, self.kind, self.scope, self._generator(), self.scale, self.bit)
        # The only device synchronisation, once per run.
        changes = [(weight.detach() - before[name]).double() for name, weight in weights.items()]
        entries = sum(int(change.count_nonzero()) for change in changes)
        distance = math.sqrt(sum(float(change.square().sum()) for change in changes))
        text = f"Perturbation ({self.kind}) at step {self.step}: {entries} weights of {where}, distance {distance:.3g}"
        announce(trainer, "Perturbation", text)
        for logger in trainer.loggers if trainer.is_global_zero else ():
            values = {"perturbation/entries": float(entries), "perturbation/distance": distance}
            logger.log_metrics(values, trainer.global_step)

    def _generator(self) -> torch.Generator:
        seed = self.seed
        if seed is None:
            entropy = [int(os.environ.get("PL_GLOBAL_SEED", 0)), int.from_bytes(b"perturbation", "big")]
            seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the change has been made."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether the change has been made."""
        self._done = state_dict["done"]


def weights_of(module: nn.Module, patterns: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the trainable parameters of two or more dimensions whose layer's name matches a pattern, by layer."""
    found = {}
    for name, parameter in module.named_parameters():
        layer = name.removesuffix(".weight")
        matches = not patterns or any(fnmatchcase(layer, pattern) for pattern in patterns)
        if parameter.requires_grad and parameter.ndim > 1 and matches:
            found[layer] = parameter
    return found


@torch.no_grad()
def perturb_(
    weights: dict[str, Tensor],
    kind: Kind,
    scope: Scope,
    generator: torch.Generator,
    scale: float = 0.0,
    bit: int = 0,
) -> str:
    """Change weights in place, with the arguments of `Perturbation`.

    Returns:
        Location of the change: the name of an entry or a layer, or the number of layers.
    """
    names, where = list(weights), f"all {len(weights)} layers"
    if scope != "all":
        sizes = torch.tensor([weights[name].numel() if scope == "weight" else 1 for name in names], dtype=torch.float64)
        names = [names[int(torch.multinomial(sizes, 1, generator=generator))]]
        where = names[0]
    for name in names:
        weight = weights[name]
        values = weight.detach().cpu().clone(memory_format=torch.contiguous_format)
        flat = values.view(-1)
        if scope == "weight":
            index = int(torch.randint(len(flat), (1,), generator=generator))
            flat = flat[index : index + 1]
            where += str([int(i) for i in np.unravel_index(index, tuple(weight.shape))])
        if kind == "bit":
            flip_(flat, bit)
        elif kind == "ulp":
            step_(flat, generator)
        else:
            std = scale * math.sqrt(2 / (weight.shape[0] * math.prod(weight.shape[2:])))
            flat.add_(torch.randn(len(flat), generator=generator).to(flat.dtype), alpha=std)
        weight.copy_(values)
    return where


def flip_(values: Tensor, bit: int) -> Tensor:
    """Flip one bit of every entry in place; bit 0 is the least significant."""
    size = values.element_size()
    mask = 1 << bit if bit < 8 * size - 1 else -(1 << bit)
    values.view(INTEGERS[size]).bitwise_xor_(mask)
    return values


def step_(values: Tensor, generator: torch.Generator) -> Tensor:
    """Move every entry in place to a neighbouring number, at random away from or towards 0; 0 moves away."""
    up = torch.randint(2, values.shape, generator=generator, dtype=torch.bool) | (values == 0)
    # Adding 1 to a floating-point number's bits, read as an integer, gives the next larger magnitude.
    bits = values.view(INTEGERS[values.element_size()])
    bits.add_(torch.where(up, 1, -1).to(bits.dtype))
    return values
