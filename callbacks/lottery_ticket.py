"""Lottery tickets: prune a trained network, rewind the remaining weights to their initial values, train again."""

from typing import Any, Literal, cast, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils import prune

Mask = Literal["magnitude", "random"]
PRUNING = {"magnitude": "l1_unstructured", "random": "random_unstructured"}


class LotteryTicket(ModelPruning):
    """Prune iteratively with rewinding, based on Lightning's ModelPruning.

    A round follows every ``every_n_epochs`` epochs, ``rounds`` times in all. It prunes the share ``amount`` of the
    remaining weights, globally over all convolution and linear layers, and resets every parameter, pruned or not, to
    its initial value. (Lightning rewinds the pruned parameters only. On a CPU it assigns them its only copy of the
    initial values, which training then changes, so that they would not be rewound from the second round on.)

    ================  ===========================================================================================
    key               meaning
    ================  ===========================================================================================
    ``lottery/kept``  share of the prunable weights that remain, logged at each round
    ================  ===========================================================================================

    Masks and initial values are saved in checkpoints and restored from them.

    Source: Frankle, Carbin, "The Lottery Ticket Hypothesis", ICLR 2019.

    Args:
        amount: share of the remaining weights that each round removes, above 0 and below 1.
        every_n_epochs: epochs of training before each round.
        rounds: number of rounds; training continues after the last.
        mask: ``magnitude`` removes the smallest weights; ``random`` is the control.
        rewind: whether to reset parameters to their initial values; False keeps the trained values.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        amount: float = 0.5,
        every_n_epochs: int = 10,
        rounds: int = 3,
        mask: Mask = "magnitude",
        rewind: bool = True,
    ) -> None:
        if not 0 < amount < 1:
            raise ValueError(f"amount={amount}: expected more than 0 and less than 1")
        if every_n_epochs < 1 or rounds < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}, rounds={rounds}: expected at least 1")
        if mask not in PRUNING:
            raise ValueError(f"mask={mask!r}: expected one of {', '.join(map(repr, get_args(Mask)))}")
        super().__init__(
            PRUNING[mask],
            parameter_names=["weight"],
            amount=amount,
            apply_pruning=lambda epoch: (epoch + 1) % every_n_epochs == 0 and epoch < every_n_epochs * rounds,
            use_lottery_ticket_hypothesis=rewind,
        )
        self._initial: list[tuple[nn.Parameter, Tensor]] = []
        self._pruned: list[nn.Module] = []
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the initial values."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)
            self._initial = [(parameter, parameter.detach().clone()) for parameter in pl_module.parameters()]
            self._loaded = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the masks and initial values of a loaded checkpoint.

        Raises:
            ValueError: if the checkpoint belongs to another network.
        """
        if self._loaded is None:
            return
        masks, initial = self._loaded["masks"], self._loaded["initial"]
        if len(initial) != len(self._initial) or len(masks) not in (0, len(self._pruned)):
            raise ValueError("LotteryTicket: the checkpoint is that of a network with other layers")
        self._initial = [(p, value.to(p)) for (p, _), value in zip(self._initial, initial, strict=True)]
        for module, mask in zip(self._pruned, masks, strict=bool(masks)):
            prune.custom_from_mask(module, "weight", mask.to(cast(Tensor, module.weight).device))

    def state_dict(self) -> dict[str, Any]:
        """Return the masks (none before the first round) and the initial values, in the network's parameter order."""
        masks = [cast(Tensor, module.weight_mask).bool() for module in self._pruned if hasattr(module, "weight_mask")]
        return {"masks": masks, "initial": [value for _, value in self._initial]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts."""
        self._loaded = state_dict

    def filter_parameters_to_prune(self, parameters_to_prune: object = ()) -> list[tuple[nn.Module, str]]:
        """Select the weights of layers other than norms."""
        assert isinstance(parameters_to_prune, list)
        chosen = [(module, name) for module, name in parameters_to_prune if getattr(module, name).ndim > 1]
        self._pruned = [module for module, _ in chosen]
        return chosen

    @torch.no_grad()
    def apply_lottery_ticket_hypothesis(self) -> None:
        """Reset every parameter to its initial value; the masks stay."""
        for parameter, value in self._initial:
            parameter.copy_(value)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune at the end of a round, and log the share of remaining weights."""
        before = self.kept()
        super().on_train_epoch_end(trainer, pl_module)
        kept = self.kept()
        if kept != before:
            for logger in trainer.loggers:
                logger.log_metrics({"lottery/kept": kept}, step=trainer.global_step)

    def kept(self) -> float:
        """Return the share of the prunable weights that are not masked."""
        masks = [getattr(module, "weight_mask", None) for module in self._pruned]
        if any(mask is None for mask in masks):
            return 1.0
        ones = torch.stack([mask.sum() for mask in masks if mask is not None]).sum()
        return ones.item() / sum(mask.numel() for mask in masks if mask is not None)
