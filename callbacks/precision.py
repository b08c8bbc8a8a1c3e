"""Read and set the switches that let float32 products round their inputs to TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

HAS_NEW_SWITCHES = hasattr(torch.backends, "fp32_precision")
"""Since torch 2.9 each operation of each backend has its own switch; the older getters then raise or are wrong."""
OPERATIONS = (("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"), ("mkldnn", "matmul"))


def _operation(device: str, name: str) -> Any:
    return getattr(getattr(torch.backends, device), name)


def float32_matmul_precision() -> str:
    """Return the precision of float32 products: ``highest``, ``high`` (TF32) or ``medium`` (bfloat16 on CPUs)."""
    if not HAS_NEW_SWITCHES:
        return torch.get_float32_matmul_precision()
    if _operation("cuda", "matmul").fp32_precision != "tf32":
        return "highest"
    return "medium" if _operation("mkldnn", "matmul").fp32_precision == "bf16" else "high"


def cudnn_allow_tf32() -> bool:
    """Return whether cuDNN's convolutions may use TF32."""
    if not HAS_NEW_SWITCHES:
        return torch.backends.cudnn.allow_tf32
    return _operation("cudnn", "conv").fp32_precision == "tf32"


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 matrix products in full float32 precision within a ``with`` block."""
    products = [_operation(*each) for each in (("cuda", "matmul"), ("mkldnn", "matmul"))] if HAS_NEW_SWITCHES else []
    if products and all(each.fp32_precision in ("none", "ieee") for each in products):
        yield  # already exact; ten times faster
        return
    with kept_precisions():
        torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def kept_precisions() -> Iterator[None]:
    """Restore every switch to its previous value after a ``with`` block."""
    operations = [_operation(*each) for each in OPERATIONS] if HAS_NEW_SWITCHES else []
    values = [operation.fp32_precision for operation in operations]
    older = None
    with suppress(RuntimeError):  # raised if the newer switch disagrees: then the older is "highest"
        older = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older or "highest")
        for operation, value in zip(operations, values, strict=True):
            if operation.fp32_precision != value:
                operation.fp32_precision = value
