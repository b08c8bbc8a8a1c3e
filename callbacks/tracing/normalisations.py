"""Rules of normalisations, reductions and pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.claims import Claim, Slices, groups_of, slices


def batch_norm(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim channels by the input channels, the parameters and the running statistics."""
    x = call.arguments["input"]
    stored = [s for name in ("running_mean", "running_var") for s in slices(call.get(name), 0)]
    channel = [Slices(x, 1), *stored]
    affine = [s for name in ("weight", "bias") for s in slices(call.get(name), 0)]
    images: Claim = {axis: [Slices(x, axis)] for axis in range(x.ndim)} | {1: [*channel, *affine]}
    return [images, *({0: channel} for _ in out[1:])]


def batch_norm_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim channels by the upstream gradient, the input and the saved statistics."""
    upstream = next(call.arguments[name] for name in ("grad_out", "grad_output") if name in call.arguments)
    x = call.arguments["input"]
    saved = ("running_mean", "running_var", "save_mean", "save_invstd", "save_var")
    channel = [Slices(upstream, 1), Slices(x, 1)]
    channel += [s for name in saved for s in slices(call.get(name), 0)]
    images: Claim = {axis: [Slices(upstream, axis), Slices(x, axis)] for axis in range(x.ndim)}
    return [images | {1: [*channel, *slices(call.get("weight"), 0)]}, {0: channel}, {0: channel}]


def layer_norm(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim every axis by that axis of the input, and normalised axes by the parameters too."""
    x = call.arguments["input"]
    affine = [call.get(name) for name in ("weight", "bias")]
    return [_normalised(call, [x], affine), *({axis: [Slices(x, axis)] for axis in range(x.ndim)} for _ in out[1:])]


def layer_norm_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim axes as in forward, and the parameters' gradients by the gradients and inputs that are summed."""
    upstream, x = call.arguments["grad_out"], call.arguments["input"]
    leading = x.ndim - len(call.arguments["normalized_shape"])
    own: Claim = {axis - leading: [Slices(upstream, axis), Slices(x, axis)] for axis in range(leading, x.ndim)}
    return [_normalised(call, [upstream, x], [call.get("weight")]), own, own]


def _normalised(call: Call, whole: Sequence[Tensor], affine: Sequence[Tensor | None]) -> Claim:
    ndim = whole[0].ndim
    leading = ndim - len(call.arguments["normalized_shape"])
    return {
        axis: [Slices(tensor, axis) for tensor in whole]
        + [s for tensor in affine if axis >= leading for s in slices(tensor, axis - leading)]
        for axis in range(ndim)
    }


def group_norm(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim a channel by its input, its group's inputs and the parameters."""
    x, groups = call.arguments["input"], call.arguments["group"]
    own = [Slices(x, 1), *groups_of(x, 1, groups, x.shape[1])]
    affine = [s for name in ("weight", "bias") for s in slices(call.get(name), 0)]
    images: Claim = {axis: [Slices(x, axis)] for axis in range(x.ndim)} | {1: own + affine}
    return [images, *({0: [Slices(x, 0)]} for _ in out[1:])]


def group_norm_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim channels as in forward, and also by the upstream gradients and weights of the whole group."""
    upstream, x, groups = (call.arguments[name] for name in ("grad_out", "input", "group"))
    channels = x.shape[1]
    own = [Slices(upstream, 1), Slices(x, 1)]
    group = [s for tensor in (upstream, x) for s in groups_of(tensor, 1, groups, channels)]
    weight = call.get("weight")
    affine = [] if weight is None else [Slices(weight, 0), *groups_of(weight, 0, groups, channels)]
    images: Claim = {axis: [Slices(upstream, axis), Slices(x, axis)] for axis in range(x.ndim)}
    parameters: Claim = {0: own + group}
    return [images | {1: own + group + affine}, parameters, parameters]


def reduction(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim each remaining axis by the same axis of the input."""
    x = call.get("self", call.get("input"))
    given = call.get("dim")
    dims = range(x.ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
    reduced = {axis % max(x.ndim, 1) for axis in dims}
    if all(result is None or result.ndim == x.ndim for result in out):  # keepdim
        return [{axis: [Slices(x, axis)] for axis in range(x.ndim) if axis not in reduced} for _ in out]
    kept = [axis for axis in range(x.ndim) if axis not in reduced]
    return [{new: [Slices(x, old)] for new, old in enumerate(kept)} for _ in out]


def pooling(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim each non-spatial axis by the same axis of the input; the operation's name gives the spatial axes."""
    spatial = next(int(letter) for letter in call.name if letter.isdecimal())
    results = []
    for result in out:
        leading = range(0 if result is None else result.ndim - spatial)
        inputs = [t for t in call.inputs if result is not None and t.ndim == result.ndim]
        results.append({axis: [Slices(t, axis) for t in inputs] for axis in leading})
    return results
