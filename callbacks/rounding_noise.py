"""Reproducible noise that models the rounding of a non-deterministic kernel."""

from __future__ import annotations

import os

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class RoundingNoise(Callback):
    r"""Multiply every gradient entry by :math:`1 + u\epsilon` before each optimiser step.

    The noise has the size of the rounding difference between two orders of summation. It models a non-deterministic
    kernel, and a seed reproduces it on any hardware. :math:`\epsilon` is the machine epsilon of the gradient's dtype.
    For ulps >= 1, u is uniform in [-ulps, ulps]. For ulps < 1, where such a factor would round to 1 or below, u is -1,
    0 or 1, and each sign has probability ulps^2 / 6: the mean 0 and the variance ulps^2 / 3 equal those of the uniform
    distribution. Every rank of a distributed run draws the same noise, after the gradients are reduced, so that
    replicas stay equal. With ulps = 0 no bit changes.

    Args:
        ulps: Half width of the noise in units in the last place.
        seed: Seed of a separate generator on the gradients' device; None uses the global seed of Lightning's
            ``seed_everything``, or 0 without one.

    Raises:
        ValueError: If ``ulps`` is negative, or exceeds 1 / epsilon: a factor of 0 or below is no rounding.
    """

    def __init__(self, ulps: float = 0.0, seed: int | None = None) -> None:
        _check(ulps, torch.float64)
        self.ulps = ulps
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def _generator(self, device: torch.device) -> torch.Generator:
        if str(device) not in self._generators:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
            generator = self._generators[str(device)] = torch.Generator(device).manual_seed(seed)
            if device.type in self._loaded:
                generator.set_state(self._loaded.pop(device.type))
        return self._generators[str(device)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the width in the dtypes of the gradients, which a precision setting has chosen by now.

        Raises:
            ValueError: If it exceeds 1 / epsilon.
        """
        for dtype in {p.dtype for p in pl_module.parameters() if p.requires_grad and p.is_floating_point()}:
            _check(self.ulps, dtype)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Perturb the gradients of the optimiser's parameters in place."""
        if not self.ulps:
            return
        gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        for gradient in gradients:
            epsilon, generator = torch.finfo(gradient.dtype).eps, self._generator(gradient.device)
            if self.ulps >= 1:
                noise = torch.empty_like(gradient)
                noise.uniform_(-self.ulps * epsilon, self.ulps * epsilon, generator=generator)
            else:  # drawn in float32: narrower dtypes cannot resolve small probabilities
                draw = torch.empty_like(gradient, dtype=torch.float32).uniform_(-1, 1, generator=generator)
                noise = torch.where(draw.abs() < self.ulps**2 / 3, draw.sign() * epsilon, 0).to(gradient.dtype)
            gradient.mul_(noise.add_(1))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return generator states by device type, including loaded but unused ones."""
        used = {torch.device(device).type: generator.get_state() for device, generator in self._generators.items()}
        return self._loaded | used

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Restore the generators' states."""
        self._generators.clear()
        self._loaded = dict(state_dict)


def _check(ulps: float, dtype: torch.dtype) -> None:
    most = 1 / torch.finfo(dtype).eps
    if not 0 <= ulps <= most:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"rounding_noise.ulps={ulps}: expected 0 (off) to {most:.2g}, the precision of {name}")
