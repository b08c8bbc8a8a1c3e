"""Locate an operation in a training step: phase, module, and line of the user's code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

FRAMEWORKS = ("torch", "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "contextlib.py")
OWN = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "symmetry_trace.py"))
ENGINE = "_engine_run_backward"


@dataclass(frozen=True)
class Line:
    """A line of code outside PyTorch and Lightning.

    Args:
        file: Path of the file.
        number: Line number.
        function: Qualified name of the function.
    """

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        path, here = Path(self.file).resolve(), Path.cwd().resolve()  # a package may be installed as links
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{self.number}, {self.function}"


@dataclass(frozen=True)
class Place:
    """The phase, module and line in which an operation ran.

    Args:
        phase: `forward`, `backward`, `hook in backward`, `between backward and optimizer` or `optimizer`.
        module: Dotted name of the innermost module, or of the module whose gradient is computed.
        line: The innermost line of the user's code, or None without one in this phase.
    """

    phase: str
    module: str
    line: Line | None

    def describe(self) -> str:
        """Return phase, module and line as text."""
        parts = [self.phase, self.module, "" if self.line is None else f"at {self.line}"]
        return ", ".join(part for part in parts if part)


class Places:
    """Track the current module of a network in forward and backward, and name its tensors.

    Args:
        root: The network.
        optimizers: Optimisers whose state is named.
    """

    def __init__(self, root: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._modules = {id(module): name for name, module in root.named_modules()}
        self._optimizers = optimizers
        self._parameters = {id(parameter): name for name, parameter in root.named_parameters()}
        self._names = {
            tensor.untyped_storage()._cdata: name
            for name, tensor in (*root.named_buffers(), *root.named_parameters())
            if tensor.layout is torch.strided
        }
        self._gradients: dict[int, str] = {}
        self._stack: list[str] = []
        self._is_inside = False
        self._by_sequence: dict[int, str] = {}
        self._backward_ran = False
        self._handles: list[RemovableHandle] = []
        self.data: set[int] = set()
        self.steps = 0

    def __enter__(self) -> Places:
        self._handles = [
            register_module_forward_pre_hook(self._on_enter),
            register_module_forward_hook(self._on_exit, always_call=True),
            register_optimizer_step_post_hook(self._on_step),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Count operations as those of a module, whose parts are not told apart."""
        stack, self._stack, self._is_inside = self._stack, [*self._stack, name], True
        try:
            yield
        finally:
            self._stack, self._is_inside = stack, False

    def _on_enter(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or self._is_inside:
            return
        name = self._modules.get(id(module))
        if name is None:
            return
        if not self._stack and torch._C._current_graph_task_id() == -1:
            self._backward_ran = False
            self.data |= {tensor.untyped_storage()._cdata for tensor in args if isinstance(tensor, Tensor)}
        self._stack.append(name)

    def _on_exit(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or self._is_inside:
            return
        if id(module) in self._modules and self._stack:
            self._stack.pop()

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1

    def note(self, inputs: Sequence[Tensor]) -> str | None:
        """Record the module of an operation's autograd node in forward, and the names of gradients in backward.

        In forward, the node has the latest sequence number. In backward, an operation that accumulates a gradient has
        it as its first input. Return the name of that gradient, else None.
        """
        if torch._C._current_graph_task_id() == -1:
            if self._stack:
                self._by_sequence.setdefault(_get_sequence_nr() - 1, self._stack[-1])
            return None
        self._backward_ran = True
        variable = getattr(torch._C._current_autograd_node(), "variable", None)
        if variable is not None and inputs:
            name = self._parameters.get(id(variable))
            if name is not None:
                name = self._gradients[inputs[0].untyped_storage()._cdata] = f"gradient of {name}"
                return name
        return None

    def place(self) -> Place:
        """Return the current place of execution."""
        in_backward = torch._C._current_graph_task_id() != -1
        line, stepping = _user_line()
        if in_backward:
            node: Any = torch._C._current_autograd_node()
            module = self._by_sequence.get(node._sequence_nr(), "") if node is not None else ""
            if self._stack:
                return Place("backward", self._stack[-1], line)
            return Place("hook in backward" if line else "backward", module, line)
        if stepping:
            return Place("optimizer", "", line)
        if self._stack or not self._backward_ran:
            return Place("forward", self._stack[-1] if self._stack else "", line)
        return Place("between backward and optimizer", "", line)

    def name(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter, buffer, gradient or optimiser state; None for another tensor."""
        storage = tensor.untyped_storage()._cdata
        return self._names.get(storage) or self._gradients.get(storage) or self._state_name(storage)

    def parameter_name(self, parameter: Tensor) -> str:
        """Return the dotted name of a parameter."""
        return self._parameters.get(id(parameter), "a parameter")

    def is_parameter(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a parameter of the network, or a view of one."""
        return self._names.get(tensor.untyped_storage()._cdata) in self._parameters.values()

    def is_data(self, tensor: Tensor) -> bool:
        """Return whether a tensor is an input of the network, or has an integer dtype: labels, indices."""
        integers = not (tensor.is_floating_point() or tensor.is_complex())
        return integers or tensor.untyped_storage()._cdata in self.data

    def _state_name(self, storage: int) -> str | None:
        for optimizer in self._optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items() if isinstance(state, dict) else ():
                    if isinstance(value, Tensor) and value.untyped_storage()._cdata == storage:
                        return f"{key} of {self._parameters.get(id(parameter), 'a parameter')}"
        return None


def _user_line() -> tuple[Line | None, bool]:
    """Return the innermost line outside the frameworks, and whether an optimiser's step is further in.

    In backward, the search ends at the frame that entered the autograd engine.
    """
    for frame in _frames():
        code = frame.f_code
        if code.co_name == ENGINE:
            return None, False
        line = None if _is_framework(code.co_filename) else Line(code.co_filename, frame.f_lineno, code.co_qualname)
        if code.co_name == "step" and isinstance(frame.f_locals.get("self"), Optimizer):
            return line, True
        if line is not None:
            return line, False
    return None, False


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


_PACKAGES = tuple(f"/site-packages/{name}" + ("/" if not name.endswith(".py") else "") for name in FRAMEWORKS)
_STANDARD = str(Path(sys.modules["os"].__file__ or "").parent)


def _is_framework(file: str) -> bool:
    if file.startswith(OWN) or file.startswith("<"):
        return True
    if "/site-packages/" in file:
        return any(package in file for package in _PACKAGES)
    return file.startswith(_STANDARD)
