"""Find the operation that makes identical channels differ: `trace` a training step of a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from symbreak.callbacks.tracing.calls import Call, tensors_in
from symbreak.callbacks.tracing.claims import CLASSES, Governors, Slices
from symbreak.callbacks.tracing.collectives import Reductions
from symbreak.callbacks.tracing.contractions import convolution_name
from symbreak.callbacks.tracing.event_log import Axis, EventLog
from symbreak.callbacks.tracing.memory import NOTHING, Causes, Memory, axis_key, is_partial
from symbreak.callbacks.tracing.partitions import MAX_SLICES, Partition, refinement, separation_ulps
from symbreak.callbacks.tracing.places import Places
from symbreak.callbacks.tracing.regions import Regions
from symbreak.callbacks.tracing.rules import COPIES, MOVEMENTS, UNCHANGED, claims, moved
from symbreak.callbacks.tracing.verdict import INITIAL, Change, Kind, Trace

Before = dict[tuple[int, int], tuple[Partition, Causes]]


class Tracer(TorchDispatchMode):
    """Compare the partitions of every operation's outputs with those that its inputs allow; see :func:`trace`."""

    def __init__(
        self, root: nn.Module, optimizers: Sequence[Optimizer], first_step: int = 0, features: Set[Axis] = frozenset()
    ) -> None:
        super().__init__()
        self.result = Trace()
        self.places = Places(root, optimizers)
        self._log = EventLog(self.result.events, self.places, first_step)
        self._weights = {name: p for name, p in root.named_parameters() if p.ndim >= 2 and p.is_floating_point()}
        self._memory = Memory()
        self._reductions = Reductions(self._memory, self._log, self.places, self._causes)
        self._regions = Regions(root, self._memory, self._log, self.places, self._causes)
        self.result.compiled = self._regions.names
        self._before: Before = {}
        self._call: Call | None = None
        self._features = features

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Return True: compiled code runs in a trace as it does without."""
        return True

    def __enter__(self) -> Tracer:
        self._start = {key: self._memory.partition(*key_of) for key, key_of in self._watched()}
        self.result.initial = {
            name: found.groups for (name, axis), found in self._start.items() if axis == 0 and not found.is_trivial
        }
        self.places.__enter__()
        self._reductions.__enter__()
        self._regions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self._reductions.is_due and exception[0] is None:
            self._reductions.settle()
        self._regions.__exit__(*exception)
        self._reductions.__exit__(*exception)
        self.places.__exit__(*exception)
        self.result.steps = self.places.steps
        reached = {key: self._causes(tensor, axis) for key, (tensor, axis) in self._watched()}
        heads, self.result.features = self._log.explain(reached, self._features)
        for (name, axis), (tensor, _) in self._watched():
            before, after = self._start[name, axis], self._memory.partition(tensor, axis)
            if after.separated(before).any():
                causes = [self.result.events[number] for number in sorted(reached[name, axis])]
                self.result.changes.append(Change(name, axis, before.groups, after.groups, tuple(causes)))
        self.result.initial = {name: count for name, count in self.result.initial.items() if (name, 0) not in heads}
        self.result.drop_unreached()

    def _watched(self) -> Iterator[tuple[tuple[str, int], tuple[Tensor, int]]]:
        for name, weight in self._weights.items():
            for axis in (0, 1):
                if weight.shape[axis] <= MAX_SLICES:
                    yield (name, axis), (weight.detach(), axis)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and compare its outputs."""
        if self._reductions.is_due:
            self._reductions.settle()
        call = self._call = Call(func, args, kwargs or {})
        self.result.seen += 1
        self._reductions.index = self._regions.index = self.result.seen
        if self._regions.is_inside():
            return func(*args, **(kwargs or {}))
        name = self.places.note(call.inputs)
        if name is not None:
            self._log.name_gradient(call.inputs[0], name)
        if func.namespace in ("c10d", "_c10d_functional"):
            return self._reductions.run(call, args, kwargs or {})
        if func.namespace != "aten" and not call.inputs:
            return func(*args, **(kwargs or {}))
        if (func.is_view and call.name != "lift_fresh") or call.name in UNCHANGED:
            return func(*args, **(kwargs or {}))
        self._before = self._snapshot(call)
        result = func(*args, **(kwargs or {}))
        self._compare(call, call.outputs(result))
        self._before = {}
        return result

    def _snapshot(self, call: Call) -> Before:
        """Return partitions and causes of the inputs that the call reads and overwrites."""
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
            self._log.forget(output)
            for axis, (allowed, causes) in governed.items():
                if call.name not in COPIES and not allowed.is_discrete:
                    checked = True
                    causes |= self._separation(call, output, axis, allowed)
                passed[axis] = causes
            for axis, causes in passed.items():
                key = axis_key(output, axis)
                record.causes[key] = causes | (NOTHING if whole else record.causes.get(key, NOTHING))
            if written and not whole:
                record.written_in_part = self._event("values", output, 0, 1)
        self.result.operations += checked

    def _governed(self, output: Tensor, axis: int, governors: Governors) -> tuple[Partition, Causes]:
        """Return the finest partition that the inputs allow, and the events that made input slices differ."""
        if governors is CLASSES:
            count = output.shape[axis]
            return Partition.discrete(count), self._event("labels", output, axis, count)
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
                known = record.causes[axis_key(tensor, axis)] = self._arrival(tensor, axis, found)
            return known
        return record.causes_of(tensor, axis)

    def _arrival(self, tensor: Tensor, axis: int, found: Partition) -> Causes:
        """Log an event for a tensor that no traced operation computed."""
        kept = self._regions.kept(tensor, axis)
        if kept is not None:
            return kept
        groups = found.groups
        if self.places.is_data(tensor):
            return self._event("data", tensor, axis, groups, subject="batch")
        name = self.places.name(tensor)
        if self.places.is_parameter(tensor):
            return self._log.add("values", INITIAL, tensor, axis, groups, self.result.seen, subject=name)
        return self._event("values", tensor, axis, groups, subject=name or "a tensor that was given")

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
        return self._event(kind, output, axis, found.groups, ulps)

    def _event(
        self, kind: Kind, tensor: Tensor, axis: int, groups: int, ulps: float | None = None, subject: str | None = None
    ) -> Causes:
        """Log an event of the current operation."""
        assert self._call is not None
        operation, name = str(self._call.function._schema.name), convolution_name(self._call)
        return self._log.add(kind, operation, tensor, axis, groups, self.result.seen, ulps, subject, convolution=name)


def _aliases(output: Tensor, inputs: Sequence[Tensor]) -> bool:
    storage = output.untyped_storage()._cdata
    return any(storage == tensor.untyped_storage()._cdata for tensor in inputs)


def _counts(tensor: Tensor, axis: int) -> bool:
    return 2 <= tensor.shape[axis] <= MAX_SLICES


@contextmanager
def trace(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] = (),
    batch: Any = None,
    first_step: int = 0,
    features: Set[Axis] = frozenset(),
) -> Iterator[Trace]:
    """Trace every operation in a ``with`` block: forward, backward and optimiser steps of a plain PyTorch loop.

    Args:
        model: The network, whose modules and parameters are named.
        optimizer: Its optimiser or optimisers, whose state is named.
        batch: Tensors, in lists or tuples, whose differences count as data. The arguments of the network always count
            as data.
        first_step: Number of updates before the block.
        features: Weights and axes that index input features, from the results of earlier blocks.

    Yields:
        The result, complete at the end of the block.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    tracer = Tracer(model, optimizers, first_step, features)
    tracer.places.data |= {tensor.untyped_storage()._cdata for tensor in tensors_in(batch)}
    with tracer:
        yield tracer.result
