"""One row of the audit: a case and its finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Device = Literal["cpu", "cuda"]
MemoryFormat = Literal["contiguous", "channels_last"]
Precision = Literal["float64", "float32", "tfloat32", "bfloat16", "float16"]


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the dtype of tensors of a precision."""
    import torch

    return torch.float32 if precision == "tfloat32" else getattr(torch, precision)


@dataclass(frozen=True)
class Case:
    """One audit case; ``any`` marks an irrelevant field.

    Args:
        operation: Name of the operation.
        precision: Dtype; ``tfloat32`` is float32 with TF32 multiplications allowed.
        shape: Shape of the images, or of the reduced gradient.
        memory_format: ``contiguous`` or ``channels_last``.
        mode: Determinism mode.
        world_size: Ranks of a reduction, else 1.
    """

    operation: str
    precision: Precision
    shape: str = "any"
    memory_format: str = "any"
    mode: str = "any"
    world_size: int = 1


@dataclass(frozen=True)
class Finding(Case):
    """The result of a case.

    Args:
        status: ``ok``; ``unsupported`` on this machine; ``refused`` where the mode has no deterministic implementation.
        reason: Reason for a status other than ``ok``.
        repeatable: This and the following fields are those of :class:`~symbreak.sweeps.audit.comparison.Comparison`.
        symmetric: Likewise.
        channels: Likewise.
        distinct: Likewise.
        asymmetry_ulps: Likewise.
        repeat_ulps: Likewise.
    """

    status: Literal["ok", "unsupported", "refused"] = "ok"
    reason: str | None = None
    repeatable: bool | None = None
    symmetric: bool | None = None
    channels: int | None = None
    distinct: int | None = None
    asymmetry_ulps: float | None = None
    repeat_ulps: float | None = None


def judge(case: Case, produce: Callable[[], Sequence[Tensor]]) -> Finding:
    """Compare a case's repeated results, or return the reason why it has none.

    Args:
        case: Identifies the row.
        produce: Returns the result of several repetitions, channels on axis 0.
    """
    from symbreak.sweeps.audit.comparison import compare

    try:
        return Finding(**asdict(case), **asdict(compare(produce())))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        return unsupported(case, reason, "refused" if "determinis" in reason else "unsupported")


def unsupported(case: Case, reason: str, status: Literal["unsupported", "refused"] = "unsupported") -> Finding:
    """Return the row of a case that cannot be run."""
    return Finding(**asdict(case), status=status, reason=reason)
