"""Hash the inputs and outputs of every operation, to find the first difference between two runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.callbacks.functional.distinct import hash_rows
from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.collectives import finish
from symbreak.callbacks.tracing.memory import Memory, is_partial
from symbreak.callbacks.tracing.partitions import bits
from symbreak.callbacks.tracing.places import Places
from symbreak.callbacks.tracing.rules import UNCHANGED

BLOCK = 4096


@dataclass(frozen=True)
class Recorded:
    """One operation of a run.

    Args:
        operation: Name, such as `aten::convolution`.
        place: Phase, module and line of the user's code.
        outputs: Dtypes and shapes of its outputs.
        read: Hashes of its inputs.
        made: Hashes of its outputs.
        random: Whether it draws random numbers.
    """

    operation: str
    place: str
    outputs: str
    read: tuple[str, ...]
    made: tuple[str, ...]
    random: bool


class Recorder(TorchDispatchMode):
    """Record hashes of the inputs and outputs of every operation that computes values.

    Args:
        root: The network, whose modules are named.
        optimizers: Its optimisers.

    Attributes:
        operations: Operations recorded so far.
    """

    def __init__(self, root: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        super().__init__()
        self.operations: list[Recorded] = []
        self._places = Places(root, optimizers)
        self._memory = Memory()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Return True: compiled code runs in a recording as it does without."""
        return True

    def __enter__(self) -> Recorder:
        self._places.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._places.__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and record it."""
        call = Call(func, args, kwargs or {})
        self._places.note(call.inputs)
        if func.is_view or call.name in UNCHANGED or call.name.startswith(("empty", "new_empty")):
            return func(*args, **(kwargs or {}))
        read = tuple(map(self._fingerprint, call.inputs))
        result = func(*args, **(kwargs or {}))
        finish(result)
        outputs = [tensor for tensor in call.outputs(result) if tensor is not None]
        for output in outputs:
            self._memory.write(output, whole=not is_partial(output))
        if outputs:
            self.operations.append(
                Recorded(
                    operation=str(func._schema.name),
                    place=self._places.place().describe(),
                    outputs=" ".join(f"{str(t.dtype).removeprefix('torch.')}{[*t.shape]}" for t in outputs),
                    read=read,
                    made=tuple(map(self._fingerprint, outputs)),
                    random=call.is_random(),
                )
            )
        return result

    def _fingerprint(self, tensor: Tensor) -> str:
        return self._memory.derive(tensor, "fingerprint", lambda: fingerprint(tensor))


@torch.no_grad()
def fingerprint(tensor: Tensor) -> str:
    """Return a 64-bit hash of the tensor's bits in index order, as hexadecimal digits."""
    values = bits(tensor.detach().contiguous()).reshape(-1)
    while True:
        whole = values.numel() // BLOCK * BLOCK
        parts = [values[:whole].view(-1, BLOCK)] if whole else []
        parts += [values[whole:].view(1, -1)] if whole < values.numel() else []
        if not parts:
            return f"{0:016x}"
        values = torch.cat([hash_rows(part) for part in parts])
        if values.numel() == 1:
            return f"{values.item() & (2**64 - 1):016x}"


def fingerprint_of_all(tensors: Iterable[Tensor]) -> str:
    """Return one hash of several tensors; their order matters."""
    hashes = [int(fingerprint(tensor), 16) for tensor in tensors]
    signed = [value - 2**64 if value >= 2**63 else value for value in hashes]
    return fingerprint(torch.tensor(signed, dtype=torch.int64))
