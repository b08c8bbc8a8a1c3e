"""Log ranks of the weights and of their change since initialisation."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from symbreak.callbacks.functional.rank import effective_rank_of, numerical_rank_of, singular_values, stable_rank_of
from symbreak.callbacks.measurements import Row
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.stacks import Sums, WeightStack

RANKS = {"effective_rank": effective_rank_of, "stable_rank": stable_rank_of, "numerical_rank": numerical_rank_of}


class RankTrajectory(Monitor):
    """Log ranks of every weight W, as a matrix whose rows are filters, and of its change W - W_0.

    ============================================= ====================================================================
    key                                           meaning
    ============================================= ====================================================================
    ``diversity/effective_rank/<layer>``          exp(entropy of the normalised singular values) of W
    ``diversity/effective_rank``                  mean over layers
    ``diversity/stable_rank/<layer>``             ||W||_F^2 / ||W||_2^2
    ``diversity/stable_rank``                     mean over layers
    ``diversity/numerical_rank/<layer>``          number of singular values above 1e-4 of the largest
    ``diversity/numerical_rank``                  mean over layers
    ``diversity/effective_rank_change/<layer>``   the same three of W - W_0; 0 before the first update
    ``diversity/effective_rank_change``           mean over layers
    ``diversity/stable_rank_change/<layer>``
    ``diversity/stable_rank_change``              mean over layers
    ``diversity/numerical_rank_change/<layer>``
    ``diversity/numerical_rank_change``           mean over layers
    ============================================= ====================================================================

    The cost of singular values is superlinear in the number of weights, unlike that of all other measures. The default
    schedule is therefore sparse, with one measurement per doubling of the step. The decomposition synchronises with an
    accelerator. W_0 is kept in (pinned) host memory and saved with the checkpoint.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule.
        include: name patterns of the layers to measure; empty for all.
        exclude: name patterns of layers to leave out.
        per_doubling: measurements between steps t and 2t of the log-spaced schedule.

    Raises:
        ValueError: if a number is not positive.
    """

    family = "diversity"
    measures_features = False

    def __init__(
        self,
        every_n_steps: int | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        per_doubling: int = 1,
    ) -> None:
        super().__init__(every_n_steps, include=include, exclude=exclude, per_doubling=per_doubling)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the initial weights, unless a checkpoint restored them."""
        super().on_fit_start(trainer, pl_module)
        for layer in self._weights:
            if layer.name not in self._initial:
                self._initial[layer.name] = _on_host(layer.weight())

    def measure_weights(self, weights: WeightStack) -> Sums:
        """Return the ranks of weights and of their changes."""
        ranks = [self._ranks(name, weight) for name, weight in zip(weights.names, weights.values, strict=True)]
        return Sums([torch.stack(column) for column in zip(*ranks, strict=True)], _named)

    def _ranks(self, layer: str, weight: Tensor) -> list[Tensor]:
        change = weight - self._initial[layer].to(weight.device, non_blocking=True)
        values = [singular_values(matrix.flatten(1)) for matrix in (weight, change)]
        return [rank(each).to(each.dtype) for each in values for rank in RANKS.values()]

    def state_dict(self) -> dict[str, Any]:
        """Add the initial weights."""
        return super().state_dict() | {"initial": dict(self._initial)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the initial weights of the first run."""
        super().load_state_dict(state_dict)
        self._initial = {layer: _pinned(weight) for layer, weight in state_dict["initial"].items()}

    def _reset(self) -> None:
        super()._reset()
        self._initial: dict[str, Tensor] = {}


def _named(*ranks: float) -> Row:
    return dict(zip([f"{name}{suffix}" for suffix in ("", "_change") for name in RANKS], ranks, strict=True))


def _on_host(weight: Tensor) -> Tensor:
    return _pinned(weight.detach().to("cpu", copy=True))


def _pinned(weight: Tensor) -> Tensor:
    """Return the weight in page-locked memory if there is a GPU, so that transfers to it do not block the host."""
    return weight.pin_memory() if torch.cuda.is_available() else weight
