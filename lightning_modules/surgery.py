"""Network surgery: widened layers, upcycled experts, tied heads, low-rank adapters."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from symbreak.lightning_modules.checks import check_choice, check_range
from symbreak.lightning_modules.initialization import MAX_NOISE, add_noise_, he_
from symbreak.lightning_modules.mixture import MixtureOfExperts

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Split = Literal["even", "uneven"]
AdapterRows = Literal["zero", "identical", "independent"]


@torch.no_grad()
def widen_(module: nn.Module, layer: str, factor: int, split: Split = "even", noise_scale: float = 0.0) -> None:
    """Replace each unit by ``factor`` copies and split its outgoing weights among them, in place.

    Copy c of unit u gets the incoming weights of u and the share a_cu of its outgoing weights, sum_c a_cu = 1, so the
    function stays the same up to rounding. The layer must feed exactly one other convolution or linear map, with
    elementwise functions and norms in between.

    Args:
        module: network that holds the layer.
        layer: dotted name of a Linear or an ungrouped convolution.
        factor: number of copies per unit.
        split: ``even`` shares 1 / factor, or ``uneven`` ones drawn uniformly and normalised.
        noise_scale: noise on the incoming weights relative to He initialisation; 0 keeps the function.

    Raises:
        ValueError: for an argument out of range, or a layer that cannot be widened.

    Source: Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016.
    """
    check_range("factor", factor, 2)
    check_choice("split", split, get_args(Split))
    check_range("noise_scale", noise_scale, 0, MAX_NOISE)  # before anything is changed
    source: Any = dict(module.named_modules()).get(layer)
    if not isinstance(source, READERS) or getattr(source, "groups", 1) != 1:
        raise ValueError(f"layer={layer!r}: expected the name of a Linear or of a convolution without groups")
    norms, reader = _path_from(module, layer)
    units = source.weight.shape[0]
    for each in (source, *norms):
        for name, tensor in [*each.named_parameters(recurse=False), *each.named_buffers(recurse=False)]:
            if tensor.ndim:
                _set(each, name, tensor.repeat(factor, *[1] * (tensor.ndim - 1)))
    _resize(source, norms, units * factor)
    shares = torch.ones(factor, units) if split == "even" else torch.rand(factor, units) + 0.1
    shares = (shares / shares.sum(0)).to(reader.weight)
    columns = reader.weight.unflatten(1, (units, -1))
    widened = columns.unsqueeze(1) * shares.view(1, factor, units, *[1] * (columns.ndim - 2))
    _set(reader, "weight", widened.flatten(1, 3))
    setattr(reader, "in_features" if isinstance(reader, nn.Linear) else "in_channels", reader.weight.shape[1])
    add_noise_(source.weight, noise_scale)


def _set(owner: nn.Module, name: str, value: Tensor) -> None:
    is_parameter = name in owner._parameters
    trained = is_parameter and getattr(owner, name).requires_grad
    setattr(owner, name, nn.Parameter(value.clone(), trained) if is_parameter else value.clone())


def _resize(source: Any, norms: list[Any], units: int) -> None:
    setattr(source, "out_features" if isinstance(source, nn.Linear) else "out_channels", units)
    for norm in norms:
        if isinstance(norm, nn.LayerNorm):
            norm.normalized_shape = (units,)
        else:
            norm.num_features = units


def _path_from(module: nn.Module, layer: str) -> tuple[list[Any], Any]:
    """Return the norms between a layer and its only consumer, and that consumer; trace the innermost parent."""
    parts = layer.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        parent, name = module.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])
        if isinstance(parent, nn.ModuleList):
            continue
        try:
            graph = fx.Tracer().trace(parent)
        except Exception as error:  # tracing can raise anything
            raise ValueError(f"layer={layer!r}: what reads it cannot be traced: {error}") from error
        norms: list[Any] = []
        for child, inputs in _users(parent, graph, name):
            if isinstance(child, READERS) and getattr(child, "groups", 1) == 1:
                return norms, child
            if isinstance(child, (_BatchNorm, nn.LayerNorm)):
                norms.append(child)
            elif (
                isinstance(child, (nn.Softmax, nn.LogSoftmax))
                or inputs > 1
                or (child is not None and list(child.parameters()))
            ):
                break
    raise ValueError(f"layer={layer!r}: expected a layer whose output reaches exactly one convolution or linear map")


def _users(parent: nn.Module, graph: fx.Graph, name: str) -> Iterator[tuple[nn.Module | None, int]]:
    """Yield each node's module and number of inputs along a layer's output, while it has only one user."""
    node = next((each for each in graph.nodes if each.op == "call_module" and each.target == name), None)
    while node is not None and len(node.users) == 1:
        node = next(iter(node.users))
        child = parent.get_submodule(str(node.target)) if node.op == "call_module" else None
        yield child, len(node.all_input_nodes)


@torch.no_grad()
def upcycle_(
    feed_forward: nn.Module, experts: int, noise_scale: float = 0.0, reinitialize: float = 0.0, **router: Any
) -> MixtureOfExperts:
    """Return a mixture of ``experts`` copies of a feed-forward block, equal to it without noise and resampling.

    Args:
        feed_forward: block whose first linear map reads its input and whose last one writes its output.
        experts: number of copies.
        noise_scale: noise on all weights of the copies relative to He initialisation.
        reinitialize: share of hidden units resampled in each expert, from N(mean, std^2) of each weight.
        router: ``top_k``, ``router_noise`` and ``router`` of `MixtureOfExperts`.

    Raises:
        ValueError: for an argument out of range, or a block without two linear maps.

    Source: Komatsuzaki et al., "Sparse Upcycling", ICLR 2023; Nakamura et al., "Drop-Upcycling", ICLR 2025.
    """
    check_range("experts", experts, 1)
    check_range("reinitialize", reinitialize, 0, 1)
    maps = [each for each in feed_forward.modules() if isinstance(each, nn.Linear)]
    if len(maps) != 2:
        raise ValueError(f"feed_forward holds {len(maps)} linear maps: expected 2")
    copies = [copy.deepcopy(feed_forward) for _ in range(experts)]
    for each in copies:
        first, last = (layer for layer in each.modules() if isinstance(layer, nn.Linear))
        chosen = torch.randperm(first.out_features)[: round(reinitialize * first.out_features)]
        rows = first.weight[chosen]
        first.weight[chosen] = torch.randn_like(rows) * first.weight.std() + first.weight.mean()
        columns = last.weight[:, chosen]
        last.weight[:, chosen] = torch.randn_like(columns) * last.weight.std() + last.weight.mean()
        for layer in (first, last):
            add_noise_(layer.weight, noise_scale)
    mixture = MixtureOfExperts(copies, maps[0].in_features, **router)
    return mixture.to(maps[0].weight)


@torch.no_grad()
def tie_heads_(attention: nn.Module, outgoing: bool = False) -> None:
    """Copy head 0's query, key and value projections to all heads; with ``outgoing`` also its output columns.

    Args:
        attention: module with ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj`` and ``num_heads``.
        outgoing: also copy head 0's columns of the output projection.

    Raises:
        ValueError: for a module without these.
    """
    projections: list[Any] = [getattr(attention, f"{name}_proj", None) for name in ("q", "k", "v", "out")]
    heads = getattr(attention, "num_heads", 0)
    if not heads or any(each is None for each in projections):
        raise ValueError(f"{type(attention).__name__} has no q_proj, k_proj, v_proj, out_proj and num_heads")
    if sizes := [each.weight.shape[0] for each in projections[:3] if each.weight.shape[0] % heads]:
        raise ValueError(f"a projection has {sizes[0]} rows: expected a multiple of num_heads={heads}")
    for each in projections[:3]:
        for tensor in each.parameters():
            parts = tensor.unflatten(0, (heads, -1))
            parts.copy_(parts[:1].clone().expand_as(parts))
    if outgoing:
        parts = projections[3].weight.unflatten(1, (heads, -1))
        parts.copy_(parts[:, :1].clone().expand_as(parts))


class LowRank(nn.Module):
    """Return base(x) + U D x with a frozen linear map and trained D (rank, in) and U (out, rank).

    rows="zero": U = 0 and D ~ He, as in LoRA. rows="identical": all rows of D are equal and all columns of U are equal,
    so that all ranks are copies. rows="independent": D ~ He, U ~ N with 0.01 of He's standard deviation.

    Source: Hu et al., "LoRA", ICLR 2022.

    Args:
        base: the linear map.
        rank: number of rows.
        rows: ``zero``, ``identical`` or ``independent``.

    Raises:
        ValueError: for a rank below 1 or unknown ``rows``.
    """

    def __init__(self, base: nn.Linear, rank: int, rows: AdapterRows = "zero") -> None:
        super().__init__()
        check_range("rank", rank, 1)
        check_choice("rows", rows, get_args(AdapterRows))
        if not isinstance(base, nn.Linear):
            raise ValueError(f"base is a {type(base).__name__}: expected a Linear")
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(he_(base.weight.new_empty(rank, base.in_features), fan="fan_in"))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        with torch.no_grad():
            if rows != "zero":
                self.up.normal_(std=0.01 * math.sqrt(2 / rank))
            if rows == "identical":
                self.down.copy_(self.down[:1].clone().expand_as(self.down))
                self.up.copy_(self.up[:, :1].clone().expand_as(self.up))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., out) of inputs (..., in)."""
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def keep_state(optimizer: torch.optim.Optimizer, module: nn.Module, change: Callable[[], None]) -> None:
    """Run surgery during training and add new parameters to the optimizer's first group.

    Unchanged parameters keep their optimizer state; new or reshaped ones start without state.
    """
    before = list(module.parameters())
    change()
    after = list(module.parameters())
    kept = {id(parameter) for parameter in after}
    for parameter in before:
        if id(parameter) not in kept:
            optimizer.state.pop(parameter, None)
    elsewhere = {id(parameter) for group in optimizer.param_groups[1:] for parameter in group["params"]}
    for group in optimizer.param_groups[1:]:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) in kept]
    # Use the order of a new optimizer: checkpoints map state to parameters by position.
    optimizer.param_groups[0]["params"] = [parameter for parameter in after if id(parameter) not in elsewhere]
