"""Mixture of experts: a router selects a few feed-forward blocks per token."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from symbreak.lightning_modules.checks import check_choice, check_range

Router = Literal["random", "equal"]


class MixtureOfExperts(nn.Module):
    """Return sum_e g_e(x) E_e(x) over the ``top_k`` experts with the largest router logits r = R x + noise.

    g is the softmax of r over the chosen experts and 0 elsewhere, so gates sum to 1. Every expert computes every token:
    reading the number of tokens per expert would synchronise the host with the device.

    Shapes: x is (..., width), as is the output.

    Source: Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017; the balance loss: Fedus, Zoph, Shazeer,
    "Switch Transformers", JMLR 2022, eq. 4.

    Args:
        experts: modules of equal shapes, width to width.
        width: size of x.
        top_k: experts per token.
        router_noise: standard deviation of Gaussian noise on the logits while training.
        router: ``random`` or ``equal`` (R = 0: all gates are equal, and ties select the same experts for every token).

    Attributes:
        balance_loss: E sum_e f_e P_e of the last forward pass, with f_e the share of choices that select expert e and
            P_e its mean probability; 1 if the load is balanced.

    Raises:
        ValueError: for fewer than one expert, ``top_k`` or noise out of range, or an unknown router.
    """

    balance_loss: Tensor

    def __init__(
        self,
        experts: Sequence[nn.Module],
        width: int,
        top_k: int = 2,
        router_noise: float = 0.0,
        router: Router = "random",
    ) -> None:
        super().__init__()
        check_choice("router", router, get_args(Router))
        check_range("experts", len(experts), 1)
        check_range("top_k", top_k, 1, len(experts))
        check_range("router_noise", router_noise, 0)
        self.experts = nn.ModuleList(experts)
        self.router = nn.Linear(width, len(experts), bias=False)
        if router == "equal":
            nn.init.zeros_(self.router.weight)
        self.top_k, self.router_noise = top_k, router_noise

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., width) of tokens (..., width)."""
        logits = self.router(x)
        if self.training and self.router_noise:
            logits = logits + self.router_noise * torch.randn_like(logits)
        best, chosen = logits.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(logits).scatter(-1, chosen, best.softmax(-1))
        count = len(self.experts)
        tokens = tuple(range(logits.ndim - 1))
        share = torch.zeros_like(logits).scatter(-1, chosen, 1 / self.top_k).mean(tokens)
        self.balance_loss = count * (share * logits.softmax(-1).mean(tokens)).sum()
        outputs = [gate.unsqueeze(-1) * expert(x) for gate, expert in zip(gates.unbind(-1), self.experts, strict=True)]
        return torch.stack(outputs).sum(0)
