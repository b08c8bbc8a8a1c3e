"""Collectives: what a reduction over ranks may separate, given the partitions of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.tracing.calls import Call
from symbreak.callbacks.tracing.event_log import EventLog
from symbreak.callbacks.tracing.memory import NOTHING, Causes, Memory, is_partial
from symbreak.callbacks.tracing.partitions import MAX_SLICES, Partition, refinement, separation_ulps
from symbreak.callbacks.tracing.places import Place, Places
from symbreak.callbacks.tracing.verdict import ALL_REDUCE, Kind

ORDER: tuple[Kind, ...] = ("data", "labels", "values", "randomness", "separation")
"""Kinds of causes, as ranks send them to each other: a later one prevails."""
Found = tuple[Partition, Causes]
Agreed = tuple[Partition, Kind]


def finish(result: Any) -> None:
    """Wait for a collective, so that its outputs can be read."""
    for each in result if isinstance(result, tuple) else (result,):
        if isinstance(each, torch.ScriptObject):
            dist.Work.unbox(each).wait()  # pyright: ignore[reportAttributeAccessIssue]


def _group_of(arguments: Sequence[Any]) -> dist.ProcessGroup:
    """Return the process group among the arguments of a collective."""
    objects = [each for each in arguments if isinstance(each, torch.ScriptObject)]
    group = next(each for each in objects if each._type().qualified_name().endswith(".ProcessGroup"))  # pyright: ignore
    return dist.ProcessGroup.unbox(group)  # pyright: ignore[reportAttributeAccessIssue]


class Reductions:
    """Compare reduced tensors with what the tensors of all ranks allow.

    DistributedDataParallel reduces gradients in flat buckets, or in a communication hook. Each parameter's local
    gradient is therefore compared with its reduced one: two slices must be equal if they are equal on every rank. The
    ranks send each other the partitions of their gradients, so all ranks must trace the same steps.

    Args:
        memory: Records of all storages.
        log: Receives the events.
        places: Names of parameters.
        causes: Causes of an axis of a tensor.
    """

    def __init__(self, memory: Memory, log: EventLog, places: Places, causes: Callable[[Tensor, int], Causes]) -> None:
        self._memory, self._log, self._places, self._causes = memory, log, places, causes
        self._handles: list[RemovableHandle] = []
        self._hooked: set[int] = set()
        self._reducing: DistributedDataParallel | None = None
        self._local: dict[tuple[int, int], Found] = {}
        self.index = 0

    def __enter__(self) -> Reductions:
        self._handles = [register_module_forward_pre_hook(self._on_forward)]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def is_due(self) -> bool:
        """Return whether backward has ended and its gradients are not compared yet."""
        return bool(self._local) and torch._C._current_graph_task_id() == -1

    def _on_forward(self, module: torch.nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not isinstance(module, DistributedDataParallel):
            return
        synchronises = module.require_backward_grad_sync and torch.is_grad_enabled()
        self._reducing = module if synchronises and dist.get_world_size(module.process_group) > 1 else None
        for parameter in module.parameters():
            if parameter.requires_grad and id(parameter) not in self._hooked:
                self._hooked.add(id(parameter))
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._on_local))

    def _on_local(self, parameter: Tensor) -> None:
        """Keep the partition of a gradient before its reduction."""
        if self._reducing is None or parameter.grad is None:
            return
        with _disable_current_modes():
            for axis in axes_of(parameter.grad):
                self._local[id(parameter), axis] = self._look(parameter.grad, axis)

    def _look(self, tensor: Tensor, axis: int) -> Found:
        """Return the partition of an axis, and its causes."""
        found = self._memory.partition(tensor, axis)
        return found, NOTHING if found.is_trivial else self._causes(tensor, axis)

    def settle(self) -> None:
        """Compare the gradients after backward with the local ones of all ranks."""
        reducing, local = self._reducing, self._local
        self._reducing, self._local = None, {}
        if reducing is None:
            return
        parameters = [parameter for parameter in reducing.parameters() if parameter.requires_grad]
        keys = [(parameter, axis) for parameter in parameters for axis in axes_of(parameter)]
        mine = [local.get((id(parameter), axis), _equal(parameter.shape[axis])) for parameter, axis in keys]
        group, device = reducing.process_group, parameters[0].device
        assert group is not None
        judge = partial(self._judge, f"{ALL_REDUCE} {dist.get_world_size(group)} ranks")
        reached: dict[Tensor, dict[int, Causes]] = {}
        for (parameter, axis), own, others in zip(keys, mine, self._agree(mine, group, device), strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient not in reached:
                self._memory.invalidate(gradient)
            name = self._places.parameter_name(parameter)
            place = Place("backward", name.rpartition(".")[0], None)
            causes = judge(gradient, axis, own, others, f"gradient of {name}", place)
            reached.setdefault(gradient, {})[axis] = causes
        for gradient, causes in reached.items():
            self._memory.explain(gradient, causes)

    def run(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a collective of the user's code, and judge what it wrote."""
        in_backward = torch._C._current_graph_task_id() != -1
        if not call.written or (in_backward and self._reducing is not None):
            result = call.function(*args, **kwargs)
            for tensor in call.written:
                self._memory.invalidate(tensor)
            return result
        keys = [(tensor, axis) for tensor in call.written for axis in axes_of(tensor)]
        read = {id(tensor) for tensor in call.inputs}
        mine = [self._look(*key) if id(key[0]) in read else _equal(key[0].shape[key[1]]) for key in keys]
        result = call.function(*args, **kwargs)
        finish(result)
        for tensor in call.written:
            self._memory.write(tensor, whole=not is_partial(tensor))
        operation = str(call.function._schema.name)
        if call.name == "allreduce_":
            group = _group_of([*args, *kwargs.values()])
            operation = f"{ALL_REDUCE} {dist.get_world_size(group)} ranks"
            others = list(self._agree(mine, group, call.written[0].device))
        else:
            after = [self._memory.partition(*key) for key in keys]
            others: list[Agreed] = [(own.refine(now), "values") for (own, _), now in zip(mine, after, strict=True)]
        reached: dict[Tensor, dict[int, Causes]] = {}
        for (tensor, axis), own, each in zip(keys, mine, others, strict=True):
            reached.setdefault(tensor, {})[axis] = self._judge(operation, tensor, axis, own, each)
        for tensor, causes in reached.items():
            self._memory.explain(tensor, causes)
        return result

    def _agree(self, mine: Sequence[Found], group: dist.ProcessGroup, device: torch.device) -> Iterator[Agreed]:
        """Yield the common refinement of every rank's partition, and the prevailing kind of cause on any rank."""
        sizes = [len(found.first) for found, _ in mine]
        codes = [max((ORDER.index(self._log.kind(each)) for each in causes), default=0) for _, causes in mine]
        sent = torch.from_numpy(np.concatenate([*(found.first for found, _ in mine), codes]).astype(np.int64))
        sent = sent.to(device)
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
        dist.all_gather(received, sent, group=group)
        rows = torch.stack(received).cpu().numpy()
        start = 0
        for index, size in enumerate(sizes):
            partitions = [Partition(row[start : start + size]) for row in rows]
            yield refinement(partitions, size), ORDER[rows[:, sum(sizes) + index].max()]
            start += size

    def _judge(
        self,
        operation: str,
        output: Tensor,
        axis: int,
        own: Found,
        others: Agreed,
        subject: str | None = None,
        place: Place | None = None,
    ) -> Causes:
        """Return the causes of an output's axis: this rank's, another rank's and the collective itself."""
        (before, causes), (allowed, kind) = own, others
        found = self._memory.partition(output, axis)
        add = partial(self._log.add, index=self.index, subject=subject, place=place)
        if not found.is_trivial and allowed.separated(before).any():
            arrived: Kind = "values" if ORDER.index(kind) >= ORDER.index("values") else kind
            causes |= add(arrived, operation, output, axis, allowed.groups)
        if found.separated(allowed).any():
            ulps = separation_ulps(output, axis, found, allowed)
            causes |= add("separation", operation, output, axis, found.groups, ulps=ulps)
        return causes


def axes_of(tensor: Tensor) -> Iterator[int]:
    """Yield the axes that have a partition."""
    return (axis for axis in range(tensor.ndim) if 2 <= tensor.shape[axis] <= MAX_SLICES)


def _equal(count: int) -> Found:
    return Partition(np.zeros(count, dtype=np.int64)), NOTHING
