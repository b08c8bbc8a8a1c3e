"""Find copies among interchangeable units and predict whether training separates them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from symbreak.callbacks.functional.unit_sets import Part, Units
from symbreak.callbacks.functional.units import find_units

EXPERTS, RANKS = "experts", "ranks"
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class CloneGroup:
    """Units with the same output.

    Attributes:
        name: layer that computes the units.
        kind: ``channels``, ``neurons``, ``heads``, ``experts`` or ``ranks``.
        members: indices of the units, ascending.
        symmetric: whether the outgoing weights are equal too, so that the units receive the same gradient.
        verdict: prediction of what separates the units.
    """

    name: str
    kind: str
    members: tuple[int, ...]
    symmetric: bool
    verdict: str


@torch.no_grad()
def find_clones(module: nn.Module, optimizer: Optimizer | None = None, tolerance: float = 0.0) -> list[CloneGroup]:
    """Return the groups of two or more units whose incoming weights are equal.

    Units with equal incoming weights, biases and normalisation have equal outputs (*incoming equal*). Units whose
    outgoing weights are equal too are *fully symmetric*: dL/dw_i = dL/dw_j for every loss, so that a deterministic
    elementwise optimizer with equal state never separates them. `find_units` lists the supported units.

    Args:
        module: any network, not changed.
        optimizer: optimizer whose state is compared too; None compares weights only.
        tolerance: largest distance of a copy from the first member, relative to the first member's norm; 0 compares
            bits.

    Raises:
        ValueError: if ``tolerance`` is negative.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance}: expected at least 0")
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    states = _states(tensors, optimizer) if optimizer else []
    dropout = any(isinstance(each, _DropoutNd) and each.p > 0 for each in module.modules())
    groups = []
    for units in find_units(module):
        for members in equal_units(units.incoming, units.count, tensors, tolerance):
            symmetric = _all_equal(units.outgoing, members, tensors, tolerance)
            same_state = all(_all_equal(_parts(units, state), members, state, tolerance) for state in states)
            verdict = _verdict(units, symmetric, same_state, dropout)
            groups.append(CloneGroup(units.name, units.kind, tuple(members), symmetric, verdict))
    return groups


def equal_units(
    parts: Sequence[Part], count: int, tensors: dict[str, Tensor], tolerance: float = 0.0
) -> list[list[int]]:
    """Return groups of two or more of ``count`` units that are equal in every part, as ascending indices."""
    if tolerance:
        return _near(torch.cat([part.rows(tensors).double().cpu().reshape(count, -1) for part in parts], 1), tolerance)
    digests = [hashlib.blake2b(digest_size=16) for _ in range(count)]
    for part in parts:
        rows = part.rows(tensors)
        bits = rows.view(INTEGERS[rows.element_size()]).cpu().numpy()
        for digest, row in zip(digests, bits, strict=True):
            digest.update(row.tobytes())
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest.digest(), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _near(rows: Tensor, tolerance: float) -> list[list[int]]:
    groups: list[list[int]] = []
    left = list(range(len(rows)))
    while left:
        first = rows[left[0]]
        close = ((rows[left] - first).norm(dim=1) <= tolerance * first.norm()).tolist()
        group = [index for index, is_close in zip(left, close, strict=True) if is_close]
        left = [index for index in left if index not in set(group)]
        groups += [group] if len(group) > 1 else []
    return groups


def _all_equal(parts: Sequence[Part], members: Sequence[int], tensors: dict[str, Tensor], tolerance: float) -> bool:
    if not parts:
        return True
    count = len(parts[0].rows(tensors))
    return any(set(members) <= set(group) for group in equal_units(parts, count, tensors, tolerance))


def _states(tensors: dict[str, Tensor], optimizer: Optimizer) -> list[dict[str, Tensor]]:
    """Return one dictionary by parameter name for each kind of state, such as a momentum."""
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for kind, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor) and value.shape == tensor.shape:
                kinds.setdefault(kind, {})[name] = value
    return list(kinds.values())


def _parts(units: Units, state: dict[str, Tensor]) -> list[Part]:
    return [part for part in [*units.incoming, *units.outgoing] if all(name in state for name in part.names)]


def _verdict(units: Units, symmetric: bool, same_state: bool, dropout: bool) -> str:
    causes = [] if same_state else ["optimizer state"]
    if not symmetric:
        causes.append("router" if units.kind == EXPERTS else "outgoing weights")
    if dropout and units.kind != RANKS:  # an adapter's dropout acts on its input, equally on all ranks
        causes.append("dropout")
    return ", ".join(causes) if causes else "nothing but arithmetic or added noise"
