"""Detect when copies of a unit diverge."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symbreak.callbacks.announce import announce
from symbreak.callbacks.functional import Units, distinct_rows, find_clones, find_units
from symbreak.callbacks.measurements import Row
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.precision import exact_products

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
KINDS = ("channels", "neurons", "heads", "experts", "ranks")


class CloneSeparation(Monitor):
    """Find units that are copies of each other, and log how they diverge.

    ============================================ =====================================================================
    key                                          meaning
    ============================================ =====================================================================
    ``clones/distinct_members/<layer>``          members of the layer's groups that differ in a bit of their incoming
                                                 weights, summed over groups
    ``clones/distinct_members``                  mean over layers with groups
    ``clones/asymmetry/<layer>``                 rms distance of the members' incoming weights from the mean of their
                                                 group, relative to their rms norm
    ``clones/asymmetry``                         mean over layers with groups
    ``clones/output_asymmetry/<layer>``          the same for the outputs of channels and neurons
    ``clones/output_asymmetry``                  mean over layers with such groups
    ``clones/steps_to_separation/<layer>``       steps from the search to the first measurement at which members of a
                                                 group differ
    ``clones/steps_to_separation``               the smallest of all layers
    ============================================ =====================================================================

    Groups are those of `find_clones`: channels, neurons, attention heads, experts, ranks of adapters. Where a layer has
    units of two kinds, as an adapted one does, the second is logged as ``<layer>.<kind>``. Nothing is logged
    without groups. :class:`~symbreak.callbacks.monitor.Monitor` describes when measurements are made. Weights that are
    sharded over processes are not supported.

    Args:
        every_n_steps: steps between measurements; None for a log-spaced schedule, dense early and sparse late.
        samples: number of samples, from the start of the batch, on which outputs are measured.
        start_step: search for groups at the first measurement from this step on, such as the step of a surgery.
        tolerance: see `find_clones`; 0 finds bitwise equal units only.
        kinds: kinds of units to search, of ``channels``, ``neurons``, ``heads``, ``experts`` and ``ranks``; empty for
            all. One kind with a large tolerance compares all its units, whether or not they are copies.

    Raises:
        ValueError: if a number is out of range or a kind is unknown.
    """

    family = "clones"
    measures_features = False  # this callback registers its own hooks

    def __init__(
        self,
        every_n_steps: int | None = None,
        samples: int = 8,
        start_step: int = 0,
        tolerance: float = 0.0,
        kinds: Sequence[str] = (),
    ) -> None:
        if start_step < 0 or tolerance < 0:
            raise ValueError(f"start_step and tolerance must be at least 0, got {start_step} and {tolerance}")
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"kinds={unknown}: expected some of {', '.join(map(repr, KINDS))}")
        self.start_step, self.tolerance, self.kinds = start_step, tolerance, tuple(kinds) or KINDS
        super().__init__(every_n_steps, samples)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the network."""
        super().on_fit_start(trainer, pl_module)
        self._module = pl_module

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure the weights, and attach hooks to the layers of channels and neurons that have copies."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._measuring is not None and not self._handles:
            for name, units in self._units.items():
                if units.kind in ("channels", "neurons"):
                    hook = partial(self._on_output, name)
                    self._handles.append(pl_module.get_submodule(units.name).register_forward_hook(hook))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remove the hooks."""
        self._remove_hooks()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks, and keep the measurements completed before the exception."""
        self._remove_hooks()
        super().on_exception(trainer, pl_module, exception)

    def derive(self, step: int, row: Row) -> Row:
        """Return the steps to separation of the layers that separated at this step."""
        found: Row = {}
        for layer, members in self._members.items():
            smallest = len(members)
            if layer not in self.separation and row.get(self.key("distinct_members", layer), 0) > smallest:
                self.separation[layer] = step - self._found_step
                found[self.key("steps_to_separation", layer)] = step - self._found_step
        first = len(found) == len(self.separation) > 0
        return found | ({self.key("steps_to_separation"): min(found.values())} if first else {})

    def flush(self, trainer: Trainer) -> None:
        """Log the values so far, and announce separations."""
        before = len(self.separation)
        super().flush(trainer)
        if not before and self.separation:
            layer, steps = min(self.separation.items(), key=lambda item: item[1])
            announce(trainer, "copies separated", f"after {steps} steps, first in {layer}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the steps to separation to W&B's summary; None if copies never separated."""
        super().on_train_end(trainer, pl_module)
        outcome = {self.key("steps_to_separation"): min(self.separation.values(), default=None)}
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(outcome)

    def state_dict(self) -> dict[str, Any]:
        """Add the groups and the separations."""
        own = {"members": self._members, "found_step": self._found_step, "separation": self.separation}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the groups and the separations."""
        super().load_state_dict(state_dict)
        self._members, self._found_step = state_dict["members"], state_dict["found_step"]
        self.separation = state_dict["separation"]

    def _reset(self) -> None:
        super()._reset()
        self.separation: dict[str, int] = {}
        self._members: dict[str, list[list[int]]] = {}
        self._found_step = -1
        self._units: dict[str, Units] = {}
        self._handles: list[RemovableHandle] = []
        self._module: nn.Module = nn.Identity()

    def _search(self, step: int) -> None:
        named: dict[str, Units] = {}
        for units in find_units(self._module):  # an adapted layer has ranks and neurons
            named[units.name if units.name not in named else f"{units.name}.{units.kind}"] = units
        labels = {(units.name, units.kind): label for label, units in named.items()}
        if self._found_step < 0:
            self._found_step = step
            for group in find_clones(self._module, tolerance=self.tolerance):
                if group.kind in self.kinds:
                    self._members.setdefault(labels[group.name, group.kind], []).append(list(group.members))
        self._units = {label: units for label, units in named.items() if label in self._members}

    def _open(self, step: int) -> None:
        if step < self.start_step:
            return
        self._measuring = step
        if not self._units and (self._found_step < 0 or self._members):
            self._search(step)
        for name, units in self._units.items():
            with torch.no_grad(), exact_products():
                # Attributes, because pruning renames parameters.
                names = {each for part in units.incoming for each in part.names}
                tensors: dict[str, Tensor] = {each: attrgetter(each)(self._module) for each in names}
                rows = [part.rows(tensors).reshape(units.count, -1) for part in units.incoming]
                matrix = torch.cat(rows, 1)
                self._from_weights[self.key("distinct_members", name)] = distinct_members(matrix, self._members[name])
                self._from_weights[self.key("asymmetry", name)] = group_asymmetry(matrix, self._members[name])

    def _on_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and self._measuring is not None:
            axis = 1 if self._units[name].kind == "channels" else -1
            with torch.no_grad(), exact_products():
                rows = output.detach()[: self.samples].movedim(axis, 0).flatten(1)
                key = self.key("output_asymmetry", name)
                self._from_weights.setdefault(key, group_asymmetry(rows, self._members[name]))

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def distinct_members(rows: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the number of bitwise distinct rows within each group, summed over groups.

    Args:
        rows: (n, k).
        groups: indices of each group.
    """
    counts = []
    for members in _by_size(groups):
        if len(members) == 1:
            counts.append(distinct_rows(rows[members[0]]).float())
            continue
        bits = rows.view(INTEGERS[rows.element_size()])[torch.tensor(members, device=rows.device)]
        for index in range(bits.shape[1]):
            seen = (bits[:, :index] == bits[:, index : index + 1]).all(-1).any(1)
            counts.append((~seen).sum().float())
    return torch.stack(counts).sum()


def group_asymmetry(rows: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return sqrt(sum over groups and members of ||x - group mean||^2 / sum of ||x||^2); 0 if all rows are 0.

    The first member is subtracted before the mean, so that equal members give exactly 0.

    Args:
        rows: (n, k).
        groups: indices of each group.
    """
    zero = torch.zeros((), device=rows.device)
    spread, square = zero, zero
    for members in _by_size(groups):
        x = rows[torch.tensor(members, device=rows.device)]
        x = x if x.dtype == torch.float64 else x.float()
        shifted = x - x[:, :1]
        spread = spread + (shifted - shifted.mean(1, keepdim=True)).square().sum()
        square = square + x.square().sum()
    return torch.where(square == 0, zero, (spread / square).sqrt())


def _by_size(groups: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    sizes: dict[int, list[Sequence[int]]] = {}
    for group in groups:
        sizes.setdefault(len(group), []).append(group)
    return list(sizes.values())
