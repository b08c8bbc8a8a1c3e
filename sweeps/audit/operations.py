"""The operations of a training step, each with inputs that make its channels symmetric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Inputs:
    """Random inputs of one case: the same numbers, rounded, on every device and in every dtype.

    Args:
        shape: Images ``(batch, channels, height, width)``.
        dtype: Dtype of every tensor.
        device: Device of every tensor.
        memory_format: Memory format of every tensor with four axes.
        seed: Seed of the numbers.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    memory_format: torch.memory_format = torch.contiguous_format
    seed: int = 0

    def random(self, *size: int, key: int = 0, identical: int | None = None) -> Tensor:
        """Return standard normal numbers; along the axis ``identical``, all slices are the same."""
        drawn = [1 if axis == identical else length for axis, length in enumerate(size)]
        generator = torch.Generator().manual_seed(self.seed + key)
        tensor = torch.randn(drawn, generator=generator, dtype=torch.float64).expand(size)
        tensor = tensor.to(self.device, self.dtype)
        return tensor.contiguous(memory_format=self.memory_format if len(size) == 4 else torch.contiguous_format)


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: Name in the report.
        symmetry: Which inputs are identical, and which outputs must then be identical.
        build: Maps inputs to a call that computes the output, with channels on axis 0.
        images: Whether the memory format matters.
    """

    name: str
    symmetry: str
    build: Callable[[Inputs], Run]
    images: bool = True


def _gradient(output: Tensor, source: Tensor, upstream: Tensor) -> Tensor:
    return torch.autograd.grad(output, source, upstream)[0]


def _layer(which: str, kernel: int, inputs: Inputs) -> Run:
    """Return a convolution with same padding (kernel > 0) or a linear layer (0), channels in = channels out."""
    batch, channels, *image = inputs.shape
    grid = [*image] if kernel else []
    identical = {"forward": (None, 0, None), "input_grad": (None, 1, None), "filter_grad": (None, None, 1)}
    x_axis, w_axis, g_axis = identical.get(which, (1, None, None))
    x = inputs.random(batch, channels, *grid, identical=x_axis).requires_grad_()
    weight = inputs.random(channels, channels, *[kernel] * len(grid), key=1, identical=w_axis).requires_grad_()
    upstream = inputs.random(batch, channels, *grid, key=2, identical=g_axis)
    layer = partial(F.conv2d, padding=kernel // 2) if kernel else F.linear

    def run() -> Tensor:
        output = layer(x, weight)
        if which == "forward":
            return output.detach().movedim(1, 0)
        gradient = _gradient(output, x if which == "input_grad" else weight, upstream)
        return gradient if which == "filter_grad" else gradient.movedim(1, 0)

    return run


def _grouped(which: str, inputs: Inputs) -> Run:
    """Compute a 3x3 convolution in two groups of equal inputs, filters and upstream gradients."""
    batch, channels, *image = inputs.shape
    half = channels // 2
    w_axis = {"forward": 0, "input_grad": 1, "filter_grad": None}[which]
    x = inputs.random(batch, half, *image).repeat(1, 2, 1, 1).requires_grad_()
    weight = inputs.random(half, half, 3, 3, key=1, identical=w_axis).repeat(2, 1, 1, 1).requires_grad_()
    upstream = inputs.random(batch, half, *image, key=2, identical=1 if which == "filter_grad" else None)
    upstream = upstream.repeat(1, 2, 1, 1)

    def run() -> Tensor:
        output = F.conv2d(x, weight, padding=1, groups=2)
        if which == "forward":
            return output.detach().movedim(1, 0)
        gradient = _gradient(output, x if which == "input_grad" else weight, upstream)
        return gradient if which == "filter_grad" else gradient.movedim(1, 0)

    return run


def _batched(which: str, inputs: Inputs) -> Run:
    """Return `bmm` of (4, batch, channels) and (4, channels, channels), as in four replicas of a linear layer."""
    batch, channels = inputs.shape[:2]
    identical = {"forward": (None, 2), "input_grad": (None, 1), "weight_grad": (None, None)}[which]
    x = inputs.random(4, batch, channels, identical=identical[0]).requires_grad_()
    weight = inputs.random(4, channels, channels, key=1, identical=identical[1]).requires_grad_()
    upstream = inputs.random(4, batch, channels, key=2, identical=2 if which == "weight_grad" else None)

    def run() -> Tensor:
        output = torch.bmm(x, weight)
        if which == "forward":
            return output.detach().movedim(2, 0)
        return _gradient(output, x if which == "input_grad" else weight, upstream).movedim(2, 0)

    return run


def _channelwise(function: Callable[[Tensor], Tensor], backward: bool, inputs: Inputs) -> Run:
    x = inputs.random(*inputs.shape, identical=1).requires_grad_()
    upstream = inputs.random(*function(x).shape, key=1, identical=1)

    def run() -> Tensor:
        output = function(x)
        return (_gradient(output, x, upstream) if backward else output.detach()).movedim(1, 0)

    return run


def _normalise(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    return F.batch_norm(x, None, None, scale, shift, training=True)


def _norm_parameter_grad(inputs: Inputs) -> Run:
    x = inputs.random(*inputs.shape, identical=1)
    upstream = inputs.random(*inputs.shape, key=1, identical=1)
    scale = torch.ones(inputs.shape[1], dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    shift = torch.zeros_like(scale, requires_grad=True)
    return lambda: torch.stack(torch.autograd.grad(_normalise(x, scale, shift), (scale, shift), upstream), dim=1)


def _loss_grad(inputs: Inputs) -> Run:
    batch, classes = inputs.shape[:2]
    others, own = inputs.random(batch, classes - 1, identical=1), inputs.random(batch, 1, key=1)
    logits = torch.cat([others, own], dim=1).requires_grad_()
    target = torch.full((batch,), classes - 1, device=inputs.device)
    return lambda: torch.autograd.grad(F.cross_entropy(logits, target), logits)[0][:, :-1].T


def _optimiser(step: Callable[[list[Tensor]], torch.optim.Optimizer], inputs: Inputs) -> Run:
    size = (inputs.shape[1], inputs.shape[1] * 9)
    start = inputs.random(*size, identical=0)
    gradients = [inputs.random(*size, key=key, identical=0) for key in (1, 2, 3)]

    def run() -> Tensor:
        weight = start.clone()
        optimiser = step([weight])
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimiser.step()
        return weight

    return run


_LAYER_SYMMETRY = {
    "forward": "identical filters, any input: identical output channels",
    "input_grad": "filters that weigh all inputs alike, any upstream gradient: identical input gradients",
    "filter_grad": "identical upstream gradients of the output channels: identical gradients of the filters",
    "column_grad": "identical input channels: identical weight gradients towards each input channel",
}
_BATCHED_SYMMETRY = {
    "forward": "identical columns of the second factor in each batch: identical columns of the product",
    "input_grad": "identical rows of the second factor: identical columns of the first one's gradient",
    "weight_grad": "identical upstream columns: identical columns of the second factor's gradient",
}
_LAYERS = {"conv3x3": 3, "conv1x1": 1, "linear": 0}
_CHANNELWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm": _normalise,
    "relu": F.relu,
    "dropout_off": partial(F.dropout, p=0.0, training=True),
    "mean_pool": lambda x: x.mean((2, 3)),
    "avg_pool": partial(F.avg_pool2d, kernel_size=2),
    "max_pool": partial(F.max_pool2d, kernel_size=2),
    "adaptive_pool": partial(F.adaptive_avg_pool2d, output_size=2),
}
_IMPLEMENTATIONS = {"forloop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def _all_operations() -> Sequence[Operation]:
    layers = [
        Operation(f"{name}_{which}", symmetry, partial(_layer, which, kernel), images=kernel > 0)
        for name, kernel in _LAYERS.items()
        for which, symmetry in _LAYER_SYMMETRY.items()
    ]
    channelwise = [
        Operation(
            f"{name}_{'input_grad' if backward else 'forward'}",
            "identical input channels" + (" and upstream gradients" if backward else "") + ": identical results",
            partial(_channelwise, function, backward),
        )
        for name, function in _CHANNELWISE.items()
        for backward in (False, True)
    ]
    grouped = [
        Operation(
            f"grouped_conv3x3_{which}", f"identical groups, and {_LAYER_SYMMETRY[which]}", partial(_grouped, which)
        )
        for which in ("forward", "input_grad", "filter_grad")
    ]
    batched = [
        Operation(f"bmm_{which}", symmetry, partial(_batched, which), images=False)
        for which, symmetry in _BATCHED_SYMMETRY.items()
    ]
    norm = "identical input channels and upstream gradients: identical gradients of scale and shift"
    loss = "identical logits of all classes but the target: identical gradients of theirs"
    return [
        *layers,
        *grouped,
        *batched,
        *channelwise,
        Operation("batch_norm_parameter_grad", norm, _norm_parameter_grad),
        Operation("cross_entropy_grad", loss, _loss_grad, images=False),
        *_optimiser_operations(),
    ]


def _optimiser_operations() -> Iterator[Operation]:
    rules = {"sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), "adamw": torch.optim.AdamW}
    symmetry = "identical filters and gradients: identical filters after three steps"
    for rule, make in rules.items():
        for name, flags in _IMPLEMENTATIONS.items():
            yield Operation(f"{rule}_{name}", symmetry, partial(_optimiser, partial(make, **flags)), images=False)


OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _all_operations()}
