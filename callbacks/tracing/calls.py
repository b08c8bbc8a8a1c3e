"""One call of an operation: its arguments by schema name, and the tensors that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

_OVERWRITTEN = "zero_ fill_ copy_ bernoulli_ normal_ uniform_ random_ exponential_ geometric_ log_normal_ cauchy_"
OVERWRITTEN = frozenset(_OVERWRITTEN.split())
"""In-place operations whose result does not depend on the overwritten values."""
_STATISTICS = ("running_mean", "running_var")
HIDDEN_WRITES: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm_update_stats"), _STATISTICS
)
"""Arguments that an operation writes although its schema does not say so."""


@dataclass(frozen=True)
class Schema:
    """The required parts of an operation's schema.

    Args:
        name: Name without namespace and overload.
        arguments: Names of the arguments, in order.
        written: Arguments that are written.
        unread: Arguments that are written and not read.
    """

    name: str
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    unread: frozenset[str]


@lru_cache(maxsize=4096)
def schema_of(function: OpOverload) -> Schema:
    """Return the schema of an overload."""
    name = function._schema.name.partition("::")[2]
    hidden = HIDDEN_WRITES.get(name, ())
    received: list[str] = []
    if function.namespace == "c10d" and name != "send":
        received = [each.name for each in function._schema.arguments if each.name.startswith(("output", "tensors"))]
    written = tuple(
        argument.name
        for argument in function._schema.arguments
        if argument.name in (*hidden, *received) or (argument.alias_info is not None and argument.alias_info.is_write)
    )
    unread = {argument.name for argument in function._schema.arguments if argument.is_out}
    unread |= {argument for argument in received if argument.startswith("output")}
    if name in OVERWRITTEN:
        unread.add("self")
    names = tuple(argument.name for argument in function._schema.arguments)
    return Schema(name, names, written, frozenset(unread))


class Call:
    """A call of an operation.

    Args:
        function: The overload.
        args: Positional arguments.
        kwargs: Named arguments.

    Attributes:
        name: Name of the operation, such as `convolution_backward`.
        arguments: All given arguments by name.
        inputs: Tensors that are read; None for entries of a list that are not tensors.
        written: Tensors that are written in place.
    """

    def __init__(self, function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        schema = schema_of(function)
        self.function, self.name = function, schema.name
        self.arguments: dict[str, Any] = dict(zip(schema.arguments, args, strict=False)) | kwargs
        self.inputs = [
            tensor
            for name, value in self.arguments.items()
            if name not in schema.unread
            for tensor in tensors_in(value)
        ]
        self.written = [tensor for name in schema.written for tensor in tensors_in(self.arguments.get(name))]
        self.lists = [
            value
            for name, value in self.arguments.items()
            if name not in schema.unread and isinstance(value, (list, tuple)) and any(True for _ in tensors_in(value))
        ]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or the default if it was not given."""
        return self.arguments.get(name, default)

    def is_random(self) -> bool:
        """Return whether the operation draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.function.tags

    def outputs(self, result: Any) -> list[Tensor | None]:
        """Return the tensors that the call created or changed: the results first, None if one was not requested."""
        results = list(result) if isinstance(result, (list, tuple)) else [] if result is None else [result]
        made = [tensor for each in results for tensor in (tensors_in(each) if each is not None else [None])]
        return made + [tensor for tensor in self.written if not any(tensor is other for other in made)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors with data and strides in a value and in nested lists and dictionaries."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided and value.device.type != "meta":
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)
