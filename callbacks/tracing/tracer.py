"""Find the operation that makes identical channels different: `trace` a training step of a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.claims import CLASSES, Governors, Slices
from symbreak.callbacks.tracing.memory import NOTHING, Causes, Memory, axis_key, is_partial
from symbreak.callbacks.tracing.partitions import MAX_SLICES, Partition, refinement, separation_ulps
from symbreak.callbacks.tracing.places import Place, Places
from symbreak.callbacks.tracing.rules import COPIES, MOVEMENTS, UNCHANGED, claims, moved
from symbreak.callbacks.tracing.verdict import Change, Event, Kind, Trace

Before = dict[tuple[int, int], tuple[Partition, Causes]]


class Tracer(TorchDispatchMode):
    """Compares the outputs of every operation with what its inputs allow; see :func:`trace`."""

    def __init__(self, root: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        super().__init__()
        self.result = Trace()
        self.places = Places(root, optimizers)
        self._weights = {name: p for name, p in root.named_parameters() if p.ndim >= 2 and p.is_floating_point()}
        self._memory = Memory()
        self._before: Before = {}
        self._call: Call | None = None

    def __enter__(self) -> Tracer:
        self._start = {key: self._memory.partition(*key_of) for key, key_of in self._watched()}
        self.result.initial = {
            name: found.groups for (name, axis), found in self._start.items() if axis == 0 and not found.is_trivial
        }
        self.places.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.places.__exit__(*exception)
        self.result.steps = self.places.steps
        self.result.initial = {name: count for name, count in self.result.initial.items() if not self._is_head(name)}
        for (name, axis), (tensor, _) in self._watched():
            before, after = self._start[name, axis], self._memory.partition(tensor, axis)
            if after.separated(before).any():
                causes = [self.result.events[number] for number in sorted(self._causes(tensor, axis))]
                self.result.changes.append(Change(name, axis, before.groups, after.groups, tuple(causes)))
        self.result.drop_unreached()

    def _is_head(self, name: str) -> bool:
        """Whether a weight's filters belong to classes, which labels tell apart."""
        causes = self._causes(self._weights[name].detach(), 0)
        return any(self.result.events[number].kind == "labels" for number in causes)

    def _watched(self) -> Iterator[tuple[tuple[str, int], tuple[Tensor, int]]]:
        for name, weight in self._weights.items():
            for axis in (0, 1):
                if weight.shape[axis] <= MAX_SLICES:
                    yield (name, axis), (weight.detach(), axis)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and compare."""
        call = self._call = Call(func, args, kwargs or {})
        self.result.seen += 1
        self.places.note(call.inputs)
        if func.namespace not in ("aten", "c10d", "_c10d_functional") and not call.inputs:
            return func(*args, **(kwargs or {}))
        if (func.is_view and call.name != "lift_fresh") or call.name in UNCHANGED:
            return func(*args, **(kwargs or {}))
        self._before = self._snapshot(call)
        result = func(*args, **(kwargs or {}))
        self._compare(call, call.outputs(result))
        self._before = {}
        return result

    def _snapshot(self, call: Call) -> Before:
        """Partitions and causes of what is read and overwritten."""
        read = [tensor for tensor in call.written if any(tensor is other for other in call.inputs)]
        return {
            (id(tensor), axis): (self._memory.partition(tensor, axis), self._causes(tensor, axis))
            for tensor in read
            for axis in range(tensor.ndim)
            if 2 <= tensor.shape[axis] <= MAX_SLICES
        }

    def _compare(self, call: Call, outputs: list[Tensor | None]) -> None:
        checked = False
        empty = call.name.startswith(("empty", "new_empty"))
        for output, claim in zip(outputs, [{}] * len(outputs) if empty else claims(call, outputs), strict=True):
            written = any(output is tensor for tensor in call.written)
            if output is None or (not written and _aliases(output, call.inputs)):
                continue
            governed = {axis: self._governed(output, axis, claim[axis]) for axis in claim if _counts(output, axis)}
            others = moved(call, output, claim) if call.name in MOVEMENTS else {}
            passed = {axis: self._governed(output, axis, others[axis])[1] for axis in others if _counts(output, axis)}
            whole = not is_partial(output)
            record = self._memory.write(output, whole or not written)
            for axis, (allowed, causes) in governed.items():
                if call.name not in COPIES and not allowed.is_discrete:
                    checked = True
                    causes |= self._separation(call, output, axis, allowed)
                passed[axis] = causes
            for axis, causes in passed.items():
                key = axis_key(output, axis)
                record.causes[key] = causes | (NOTHING if whole else record.causes.get(key, NOTHING))
            if written and not whole:
                record.written_in_part = frozenset({self._event("values", output, 0, 1, None).number})
        self.result.operations += checked

    def _governed(self, output: Tensor, axis: int, governors: Governors) -> tuple[Partition, Causes]:
        """Return the finest partition that the inputs allow, and the events that made them differ."""
        if governors is CLASSES:
            event = self._event("labels", output, axis, output.shape[axis], None)
            return Partition.discrete(output.shape[axis]), frozenset({event.number})
        looked = [self._look(slices) for slices in governors]
        allowed = refinement([found for found, _ in looked], output.shape[axis])
        return allowed, NOTHING.union(*(causes for found, causes in looked if not found.is_trivial))

    def _look(self, slices: Slices) -> tuple[Partition, Causes]:
        before = self._before.get((id(slices.tensor), slices.axis))
        if before is not None:
            return before
        found = self._memory.partition(slices.tensor, slices.axis).repeat(slices.repeat)
        return found, NOTHING if found.is_trivial else self._causes(slices.tensor, slices.axis)

    def _causes(self, tensor: Tensor, axis: int) -> Causes:
        record = self._memory.record(tensor)
        if not record.known:
            found = self._memory.partition(tensor, axis)
            if found.is_trivial:
                return NOTHING
            known = record.causes.get(axis_key(tensor, axis))
            if known is None:
                known = frozenset({self._arrival(tensor, axis, found).number})
                record.causes[axis_key(tensor, axis)] = known
            return known
        return record.causes_of(tensor, axis)

    def _arrival(self, tensor: Tensor, axis: int, found: Partition) -> Event:
        """Make the event of a tensor that no traced operation made."""
        if self.places.is_data(tensor):
            return self._event("data", tensor, axis, found.groups, None, "batch", "")
        name = self.places.name(tensor)
        if self.places.is_parameter(tensor):
            return self._event("values", tensor, axis, found.groups, None, "initial weights", name)
        return self._event("values", tensor, axis, found.groups, None, None, name or "a tensor that was given")

    def _separation(self, call: Call, output: Tensor, axis: int, allowed: Partition) -> Causes:
        found = self._memory.partition(output, axis)
        if not found.separated(allowed).any():
            return NOTHING
        kind: Kind = "separation"
        if call.is_random():
            kind = "randomness"
        elif call.name in MOVEMENTS or not call.inputs:
            integers = any(not (t.is_floating_point() or t.is_complex()) for t in call.inputs)
            kind = "labels" if integers else "values"
        ulps = separation_ulps(output, axis, found, allowed) if kind == "separation" else None
        return frozenset({self._event(kind, output, axis, found.groups, ulps).number})

    def _event(
        self,
        kind: Kind,
        tensor: Tensor,
        axis: int,
        groups: int,
        ulps: float | None,
        operation: str | None = None,
        subject: str | None = None,
    ) -> Event:
        assert self._call is not None
        place: Place = Place("start", "", None) if operation == "initial weights" else self.places.place()
        event = Event(
            number=len(self.result.events),
            kind=kind,
            operation=operation or str(self._call.function._schema.name),
            subject=self._subject(tensor, place) if subject is None else subject,
            place=place,
            step=self.places.steps,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            axis=axis,
            groups=groups,
            ulps=ulps,
            index=self.result.seen,
        )
        self.result.events.append(event)
        return event

    def _subject(self, tensor: Tensor, place: Place) -> str:
        name = self.places.name(tensor)
        if name is not None or not place.module:
            return name or place.phase
        return f"{'gradient in' if 'backward' in place.phase else 'output in'} {place.module}"


def _aliases(output: Tensor, inputs: Sequence[Tensor]) -> bool:
    storage = output.untyped_storage()._cdata
    return any(storage == tensor.untyped_storage()._cdata for tensor in inputs)


def _counts(tensor: Tensor, axis: int) -> bool:
    return 2 <= tensor.shape[axis] <= MAX_SLICES


@contextmanager
def trace(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] = ()) -> Iterator[Trace]:
    """Trace every operation in a ``with`` block: forward, backward and optimiser steps of a plain PyTorch loop.

    Args:
        model: The network, whose modules and parameters are named.
        optimizer: Its optimiser or optimisers, whose state is named.

    Yields:
        The result, complete when the block has ended.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    with Tracer(model, optimizers) as tracer:
        yield tracer.result
