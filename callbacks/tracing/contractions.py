"""Rules of convolutions, matrix products, attention, embeddings and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.claims import CLASSES, Claim, Slices, groups_of, slices


def convolution_name(call: Call) -> str:
    """Return the kind and kernel of a convolution, such as `grouped_conv3x3`; empty for another operation."""
    if call.name not in ("convolution", "convolution_backward"):
        return ""
    weight, groups = call.arguments["weight"], call.arguments["groups"]
    kind = "transposed_" if call.get("transposed") else ""
    kind += "" if groups == 1 else "grouped_" if weight.shape[1] > 1 else "depthwise_"
    return f"{kind}conv{'x'.join(map(str, weight.shape[2:]))}"


def convolution(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim output channels by their filters and biases and, if grouped, by the input channels of their group."""
    x, weight, bias, groups = (call.get(name) for name in ("input", "weight", "bias", "groups"))
    if call.get("transposed"):
        channels = [Slices(weight, 1), *slices(bias, 0)]
        return [{0: [Slices(x, 0)]} | ({1: channels} if groups == 1 else {})]
    channels = [Slices(weight, 0), *slices(bias, 0), *groups_of(x, 1, groups, len(weight))]
    return [{0: [Slices(x, 0)], 1: channels}]


def convolution_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim input gradients by the filters' columns, and filter gradients by output gradients and inputs."""
    upstream, x, weight, groups = (call.get(name) for name in ("grad_output", "input", "weight", "groups"))
    samples = [Slices(upstream, 0)]
    bias: Claim = {0: [Slices(upstream, 1)]}
    if call.get("transposed"):
        if groups > 1:
            return [{0: samples}, {}, bias]
        return [{0: samples, 1: [Slices(weight, 0)]}, {0: [Slices(x, 1)], 1: [Slices(upstream, 1)]}, bias]
    filters, channels = len(weight), x.shape[1]
    if groups == 1:
        return [{0: samples, 1: [Slices(weight, 1)]}, {0: [Slices(upstream, 1)], 1: [Slices(x, 1)]}, bias]
    columns = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    inputs = [Slices(columns, 0), *groups_of(upstream, 1, groups, channels)]
    rows = [Slices(upstream, 1), *groups_of(x, 1, groups, filters)]
    return [{0: samples, 1: inputs}, {0: rows, 1: [Slices(x.unflatten(1, (groups, -1)), 2)]}, bias]


def product(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim rows by the first factor, columns by the second and batches by both, for mm, addmm, bmm, baddbmm, mv."""
    addend = call.get("self") if call.name.startswith(("add", "badd")) else None
    a = call.get("mat1", call.get("batch1", call.get("mat", call.get("self"))))
    b = call.get("mat2", call.get("batch2", call.get("vec")))
    rows = a.ndim - 2
    claim: Claim = {rows: [Slices(a, rows)]}
    if b.ndim == a.ndim:
        claim[rows + 1] = [Slices(b, rows + 1)]
    if rows == 1:
        claim[0] = [Slices(a, 0), Slices(b, 0)]
    for axis, governors in claim.items():
        result = out[0]
        assert result is not None
        own = axis - result.ndim + addend.ndim if addend is not None else -1
        if addend is not None and own >= 0 and addend.shape[own] == result.shape[axis]:
            governors.append(Slices(addend, own))
    return [claim]


def linear(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim the last axis by the rows of the weight, the others by the input."""
    x, weight = call.arguments["input"], call.arguments["weight"]
    leading: Claim = {axis: [Slices(x, axis)] for axis in range(x.ndim - 1)}
    return [leading | {x.ndim - 1: [Slices(weight, 0), *slices(call.get("bias"), 0)]}]


def attention(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim batches and heads by all three inputs, tokens by the queries, entries by the values."""
    q, k, v = (call.arguments[name] for name in ("query", "key", "value"))
    common: Claim = {axis: [Slices(t, axis) for t in (q, k, v)] for axis in (0, 1)}
    if not _is_positional(call):
        common[2] = [Slices(q, 2)]
    return [common | {3: [Slices(v, 3)]}, dict(common)]


def attention_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim tokens by the inputs of the same tokens, and entries by the entries of the other factor."""
    upstream = next(call.arguments[name] for name in ("grad_out", "grad_out_", "grad_output") if name in call.arguments)
    q, k, v, result = (call.arguments[name] for name in ("query", "key", "value", "out"))
    common: Claim = {axis: [Slices(t, axis) for t in (upstream, q, k, v, result)] for axis in (0, 1)}
    tokens = [[Slices(upstream, 2), Slices(q, 2), Slices(result, 2)], [Slices(k, 2), Slices(v, 2)], [Slices(k, 2)]]
    entries = [[Slices(k, 3)], [Slices(q, 3)], [Slices(upstream, 3)]]
    positional = _is_positional(call)
    return [
        common | ({} if positional else {2: token}) | {3: entry} for token, entry in zip(tokens, entries, strict=True)
    ]


def _is_positional(call: Call) -> bool:
    """Return whether the result depends on token positions."""
    masks = (call.get("attn_mask"), call.get("attn_bias"))
    return bool(call.get("is_causal")) or any(mask is not None for mask in masks)


def embedding(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim entries by the columns of the table, positions by the indices."""
    weight, indices = call.arguments["weight"], call.arguments["indices"]
    return [{axis: [Slices(indices, axis)] for axis in range(indices.ndim)} | {indices.ndim: [Slices(weight, 1)]}]


def embedding_backward(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim columns by the upstream gradient; rows differ by the occurrences of their index."""
    upstream = call.arguments["grad_output"]
    return [{0: CLASSES, 1: [Slices(upstream, upstream.ndim - 1)]}]


def loss_gradient(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Claim samples by their targets; classes differ by the samples that have them as target."""
    target = call.arguments["target"]
    x = call.arguments["self"]
    return [{0: [Slices(target, 0)], 1: CLASSES} if x.ndim > 1 else {0: CLASSES}]
