"""TransformerLM: a decoder-only transformer with options to copy units, initially or during training."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symbreak.lightning_modules.checks import check_choice, check_range
from symbreak.lightning_modules.initialization import MAX_NOISE
from symbreak.lightning_modules.language_model import LanguageModel
from symbreak.lightning_modules.mixture import MixtureOfExperts, Router
from symbreak.lightning_modules.surgery import (
    AdapterRows,
    LowRank,
    Split,
    keep_state,
    tie_heads_,
    upcycle_,
    widen_,
)

Grow = Literal["none", "widen", "upcycle"]
Heads = Literal["independent", "equal", "symmetric"]


class CausalSelfAttention(nn.Module):
    """Causal multi-head self-attention, (N, T, width) to (N, T, width)."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (N, T, width) of tokens (N, T, width)."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        rate = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, num_heads, dropout)
        self.feed_forward: nn.Module = feed_forward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to (N, T, width)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.norm(x)))


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Return linear, GELU, dropout, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class TransformerLM(LanguageModel):
    """Decoder-only language model: embeddings, pre-norm blocks, norm, linear head.

    Weights start as N(0, 0.02^2), those that write to the residual stream as N(0, 0.02^2 / (2 depth)), biases as 0,
    routers as `MixtureOfExperts` makes them.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.

    Args:
        num_classes: size of the vocabulary.
        context: largest number of tokens.
        depth: number of blocks.
        width: size of the residual stream.
        num_heads: attention heads; must divide the width.
        hidden: hidden neurons of a feed-forward block.
        dropout: rate of dropout.
        experts: experts of each feed-forward block, 0 for one dense block, see `MixtureOfExperts`.
        top_k: experts per token.
        router_noise: standard deviation of the noise on the router's logits while training.
        router: ``random`` or ``equal``, see `MixtureOfExperts`.
        balance: weight of the load-balance loss.
        heads: ``independent``, ``equal`` (the same queries, keys and values) or ``symmetric`` (the same outputs too).
        adapter_rank: rank of adapters on all query and value projections, 0 for none; freezes the rest of the blocks.
        adapter_rows: rows of the adapters, see `LowRank`.
        grow: ``none``, ``widen`` (two copies of each hidden neuron) or ``upcycle`` (four copies as experts).
        grow_step: number of optimiser steps before growing.
        split: shares of outgoing weights under ``widen``.
        noise_scale: noise on the copies, relative to He initialisation.
        reinitialize: share of hidden units resampled under ``upcycle``.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        num_classes: int = 256,
        context: int = 64,
        depth: int = 2,
        width: int = 128,
        num_heads: int = 4,
        hidden: int = 512,
        dropout: float = 0.0,
        experts: int = 0,
        top_k: int = 2,
        router_noise: float = 0.0,
        router: Router = "random",
        balance: float = 0.01,
        heads: Heads = "independent",
        adapter_rank: int = 0,
        adapter_rows: AdapterRows = "zero",
        grow: Grow = "none",
        grow_step: int = 0,
        split: Split = "even",
        noise_scale: float = 0.0,
        reinitialize: float = 0.0,
    ) -> None:
        super().__init__(num_classes, balance)
        check_choice("heads", heads, get_args(Heads))
        check_choice("grow", grow, get_args(Grow))
        check_choice("split", split, get_args(Split))
        check_choice("router", router, get_args(Router))
        sizes = {"context": context, "depth": depth, "hidden": hidden, "num_heads": num_heads}
        _check_bounds(sizes, 1)
        _check_bounds({"grow_step": grow_step, "adapter_rank": adapter_rank}, 0)
        check_range("noise_scale", noise_scale, 0, MAX_NOISE)
        check_range("dropout", dropout, 0, 1)
        check_range("reinitialize", reinitialize, 0, 1)
        if width < num_heads or width % num_heads:
            raise ValueError(f"width={width}: expected a multiple of num_heads={num_heads}")
        if experts and grow != "none":
            raise ValueError(f"grow={grow!r} needs dense feed-forward blocks: experts=0")
        self.save_hyperparameters()
        self.embedding, self.positions = nn.Embedding(num_classes, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, hidden, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes, bias=False)
        if experts:
            for block in self._blocks():
                members = [feed_forward(width, hidden, dropout) for _ in range(experts)]
                block.feed_forward = MixtureOfExperts(members, width, top_k, router_noise, router)
        self._initialize(depth)
        self._tie_and_adapt(heads, adapter_rank, adapter_rows)
        self.grown = grow == "none"

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, T, num_classes) of tokens (N, T)."""
        x = self.dropout(self.embedding(tokens) + self.positions.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def on_train_start(self) -> None:
        """Grow before the first step if ``grow_step`` is already reached."""
        super().on_train_start()
        self._grow_when_due()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Grow after ``grow_step`` updates and add the new parameters to the optimiser."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        self._grow_when_due()

    def _grow_when_due(self) -> None:
        if not self.grown and self.trainer.global_step >= self.hparams["grow_step"]:
            keep_state(self.trainer.optimizers[0], self, self.grow)

    def grow(self) -> None:
        """Widen or upcycle every feed-forward block; the function stays the same without noise."""
        options = self.hparams
        for index, block in enumerate(self._blocks()):
            if options["grow"] == "widen":
                widen_(self, f"blocks.{index}.feed_forward.0", 2, options["split"], options["noise_scale"])
            elif options["grow"] == "upcycle":
                router = {name: options[name] for name in ("top_k", "router_noise", "router")}
                share, noise = options["reinitialize"], options["noise_scale"]
                block.feed_forward = upcycle_(block.feed_forward, 4, noise, share, **router)
        self.grown = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Grow first if the checkpoint was saved after growing."""
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        if not self.grown and own != {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}:
            self.grow()

    def _blocks(self) -> list[Any]:
        return list(self.blocks)

    def _tie_and_adapt(self, heads: Heads, adapter_rank: int, adapter_rows: AdapterRows) -> None:
        for block in self._blocks():
            if heads != "independent":
                tie_heads_(block.attention, outgoing=heads == "symmetric")
            if adapter_rank:
                block.requires_grad_(False)
                for name in ("q_proj", "v_proj"):
                    base = getattr(block.attention, name)
                    setattr(block.attention, name, LowRank(base, adapter_rank, adapter_rows))

    def _initialize(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            last = name.endswith(("out_proj.weight", ".3.weight"))
            if name.endswith("router.weight"):
                continue  # a mixture sets its own router
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5 if last else 0.02)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(parameter)


def _check_bounds(values: Mapping[str, float], low: float) -> None:
    for name, value in values.items():
        check_range(name, value, low)
