"""The audit's verdict on an operation found by a trace, on this machine."""

from __future__ import annotations

from functools import cache
from typing import get_args

from symbreak.callbacks.tracing import Event
from symbreak.callbacks.tracing.verdict import ALL_REDUCE
from symbreak.sweeps.audit.cases import Case, Finding, Precision, dtype_of
from symbreak.sweeps.audit.evaluation import evaluate, evaluate_reductions
from symbreak.sweeps.audit.operations import OPERATIONS

SHAPES = ("8x16x8x8", "8x17x8x8", "8x64x8x8")
"""Shapes of images audited in addition to those with the traced number of channels."""
_PLAIN = {
    "native_batch_norm": ("batch_norm_forward",),
    "bmm": ("bmm_forward", "bmm_input_grad", "bmm_weight_grad"),
    "baddbmm": ("bmm_forward", "bmm_input_grad", "bmm_weight_grad"),
    "relu": ("relu_forward",),
    "threshold_backward": ("relu_input_grad",),
    "mean": ("mean_pool_forward",),
    "avg_pool2d": ("avg_pool_forward",),
    "avg_pool2d_backward": ("avg_pool_input_grad",),
    "max_pool2d_with_indices": ("max_pool_forward",),
    "max_pool2d_with_indices_backward": ("max_pool_input_grad",),
    "_adaptive_avg_pool2d": ("adaptive_pool_forward",),
    "_adaptive_avg_pool2d_backward": ("adaptive_pool_input_grad",),
    "_log_softmax_backward_data": ("cross_entropy_grad",),
}


def audited(event: Event, optimizer: str = "SGD") -> tuple[str, ...]:
    """Return the names of the audit's operations that an event's operation corresponds to; none if there is none."""
    if event.operation.startswith(ALL_REDUCE):
        return ("all_reduce_default",)
    name = event.operation.partition("::")[2]
    of_weight = event.subject.startswith("gradient of") and event.subject.endswith((".weight", ".bias"))
    if event.place.phase == "optimizer":
        kind = "fused" if name.startswith("_fused") else "foreach" if name.startswith("_foreach") else "forloop"
        found = f"{optimizer.lower()}_{kind}"
        return (found,) if found in OPERATIONS else ()
    if name == "native_batch_norm_backward":
        return ("batch_norm_parameter_grad",) if of_weight else ("batch_norm_input_grad",)
    layer = "linear" if name in ("mm", "addmm", "linear") else event.convolution
    if not layer:
        return _PLAIN.get(name, ())
    which = "forward"
    if "backward" in event.place.phase:
        which = ("filter_grad", "column_grad")[min(event.axis, 1)] if of_weight else "input_grad"
    return (f"{layer}_{which}",) if f"{layer}_{which}" in OPERATIONS else ()


def audit_verdict(event: Event, optimizer: str = "SGD", world_size: int = 1) -> str:
    """Audit the operation in the event's precision and number of channels; return the verdict in words."""
    precision = next((name for name in get_args(Precision) if str(dtype_of(name)).endswith(f".{event.dtype}")), None)
    names = audited(event, optimizer)
    if event.kind != "separation":
        return "-"
    if precision is None or not names:
        return "not audited"
    judged = [finding for name in names for finding in _judge(name, precision, event.slices, world_size)]
    cases = [finding for finding in judged if finding.status == "ok"]
    bad = [finding for finding in cases if not finding.symmetric]
    if not cases:
        return "unsupported"
    if not bad:
        return f"symmetric in {len(cases)} cases"
    return f"asymmetric in {len(bad)} of {len(cases)} cases, up to {max(f.distinct or 0 for f in bad)} groups"


@cache
def _judge(name: str, precision: Precision, channels: int, world_size: int) -> tuple[Finding, ...]:
    shapes = dict.fromkeys((f"8x{channels}x8x8", *SHAPES))
    if name not in OPERATIONS:
        return tuple(evaluate_reductions("cpu", [name], list(shapes), [precision], [max(2, world_size)]))
    formats = ("contiguous", "channels_last") if OPERATIONS[name].images else ("any",)
    cases = [Case(name, precision, shape, layout) for shape in shapes for layout in formats]
    return tuple(evaluate("cpu", "strict", 2, cases))
