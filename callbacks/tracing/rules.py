"""The rule of each operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symbreak.callbacks.tracing import contractions, normalisations
from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.claims import Claim, Rule, Slices

BATCH_NORMS = """
    native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update
    _native_batch_norm_legit_no_training
"""
REDUCTIONS = """
    sum nansum mean amax amin max min prod var std var_mean std_mean any all logsumexp linalg_vector_norm norm argmax
    argmin median count_nonzero
"""
RULES: dict[str, Rule] = {
    "convolution": contractions.convolution,
    "convolution_backward": contractions.convolution_backward,
    "linear": contractions.linear,
    "embedding": contractions.embedding,
    "embedding_dense_backward": contractions.embedding_backward,
    "nll_loss_backward": contractions.loss_gradient,
    "nll_loss2d_backward": contractions.loss_gradient,
    "native_layer_norm": normalisations.layer_norm,
    "native_layer_norm_backward": normalisations.layer_norm_backward,
    "native_group_norm": normalisations.group_norm,
    "native_group_norm_backward": normalisations.group_norm_backward,
    "native_batch_norm_backward": normalisations.batch_norm_backward,
    "cudnn_batch_norm_backward": normalisations.batch_norm_backward,
    "miopen_batch_norm_backward": normalisations.batch_norm_backward,
    "batch_norm_backward": normalisations.batch_norm_backward,
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm", "mv", "addmv"], contractions.product),
    **dict.fromkeys(BATCH_NORMS.split(), normalisations.batch_norm),
    **dict.fromkeys(REDUCTIONS.split(), normalisations.reduction),
}
COPIES = frozenset(["clone", "_to_copy", "copy_", "contiguous", "_reshape_copy"])
"""Operations that copy the entries of an input without moving them."""
_MOVEMENTS = """
    cat stack index index_select gather scatter scatter_ scatter_add index_put index_put_ _index_put_impl_ index_add
    index_add_ select_scatter slice_scatter select_backward slice_backward as_strided_scatter roll flip repeat sort topk
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d tril triu cumsum cumprod im2col col2im
    unfold_backward masked_select masked_scatter masked_scatter_ diagonal_backward nll_loss_forward one_hot
"""
MOVEMENTS = frozenset(_MOVEMENTS.split())
"""Operations that move entries, or whose result depends on positions."""
_UNCHANGED = """
    detach detach_ alias lift set_ resize_ _local_scalar_dense is_same_size requires_grad_ record_stream _reshape_alias
    _unsafe_view _record_function_enter_new _record_function_exit _assert_async
"""
UNCHANGED = frozenset(_UNCHANGED.split())
"""Operations that compute no values and allocate no memory."""


def claims(call: Call, out: Sequence[Tensor | None]) -> list[Claim]:
    """Return a claim for each output, by the operation's rule; without one, by the elementwise rule."""
    rule = RULES.get(call.name)
    if rule is None and "_scaled_dot_product" in call.name:
        backward = call.name.endswith("_backward")
        rule = contractions.attention_backward if backward else contractions.attention
    if rule is None and "pool" in call.name and any(letter.isdecimal() for letter in call.name):
        rule = normalisations.pooling
    if rule is None:
        return [{} if result is None else elementwise(call, result, index) for index, result in enumerate(out)]
    found = rule(call, out)
    return (found + [{}] * len(out))[: len(out)]


def moved(call: Call, result: Tensor, claim: Claim) -> Claim:
    """Return, for unclaimed axes, the input axes of equal size: the possible sources of their entries."""
    return {
        axis: [Slices(t, own) for t in call.inputs for own in range(t.ndim) if t.shape[own] == result.shape[axis]]
        for axis in range(result.ndim)
        if axis not in claim
    }


def elementwise(call: Call, result: Tensor, index: int) -> Claim:
    """Claim each axis by the inputs that have it after broadcasting; in lists of tensors, by the one at ``index``.

    For operations without PyTorch's elementwise tag, only inputs with the same number of axes count.
    """
    lists = [
        each for each in call.lists if len(each) > 1 or call.name.startswith(("_foreach", "_fused", "_amp_foreach"))
    ]
    if lists:
        length = max(map(len, lists))
        inputs = [each[index % length] for each in lists if len(each) == length]
    else:
        inputs = call.inputs
    broadcasts = torch.Tag.pointwise in call.function.tags
    claim: Claim = {}
    for axis in range(result.ndim):
        governors = []
        for tensor in inputs:
            own = axis - result.ndim + tensor.ndim
            if own >= 0 and (broadcasts or tensor.ndim == result.ndim) and tensor.shape[own] == result.shape[axis]:
                governors.append(Slices(tensor, own))
        if governors or broadcasts or call.is_random() or not call.inputs:
            claim[axis] = governors
    return claim
