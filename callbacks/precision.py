"""The switches that let float32 products round their inputs to TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

TF32 = "tf32"
HAS_NEW_SWITCHES = hasattr(torch.backends, "fp32_precision")
"""Since torch 2.9 each operation of each backend has a switch of its own."""
OPERATIONS = (("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"), ("mkldnn", "matmul"))


def float32_matmul_precision() -> str:
    """Return the precision of float32 matrix products on CUDA: ``highest``, ``high`` (TF32) or ``medium``.

    PyTorch's own getter raises after its newer switches (``fp32_precision``) were used.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "high" if torch.backends.cuda.matmul.fp32_precision == TF32 else "highest"


def cudnn_allow_tf32() -> bool:
    """Return whether cuDNN's convolutions may use TF32, whichever of PyTorch's switches said so."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return torch.backends.cudnn.conv.fp32_precision == TF32  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 matrix products in float32 within a ``with`` block, whatever training allows."""
    with kept_precisions():
        if HAS_NEW_SWITCHES:
            for device in ("cuda", "mkldnn"):
                getattr(torch.backends, device).matmul.fp32_precision = "ieee"
        else:
            torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def kept_precisions() -> Iterator[None]:
    """Bring every switch back to its value from before a ``with`` block."""
    if not HAS_NEW_SWITCHES:
        before = torch.get_float32_matmul_precision()
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    operations = [getattr(getattr(torch.backends, device), operation) for device, operation in OPERATIONS]
    values = [operation.fp32_precision for operation in operations]
    try:
        yield
    finally:
        for operation, value in zip(operations, values, strict=True):
            if operation.fp32_precision != value:
                operation.fp32_precision = value
