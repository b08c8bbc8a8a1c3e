"""The rule of `acceleration.channels_last: auto`: on where recorded audits show that identical channels stay identical.

The knowledge is data: the files of `symbreak audit` in `sweeps/results`. A file counts only on a machine of its kind:
the same device, vector instructions, torch release and number of threads, because the remainder of a vectorised loop
depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from symbreak.callbacks import environment
from symbreak.sweeps.paths import shipped_results

AUDITS = "audit_*.json"
PRECISION = {"32-true": "float32"}
"""Precisions of a trainer in which convolutions are faster in channels_last on a CPU, and their name in an audit."""
SHALLOWEST = 16
"""Fewest channels of a layer for which the memory format was measured to be faster."""


def channels_last_is_safe(network: nn.Module, precision: str, device: torch.device) -> bool:
    """Return whether channels_last is faster for a network, and known to be symmetric at its channel counts.

    A count is known if every operation on images was symmetric for a count that divides it.

    Args:
        network: its 2-d convolutions decide; a grouped one makes the answer no.
        precision: as the trainer names it.
        device: where it is trained; on an accelerator nothing has been audited yet.
    """
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    counts = {each.out_channels for each in convolutions}
    if device.type != "cpu" or precision not in PRECISION or not counts or min(counts) < SHALLOWEST:
        return False
    if any(each.groups > 1 for each in convolutions):
        return False
    known = known_counts(_audits(), environment(), PRECISION[precision])
    return all(any(count % each == 0 for each in known) for count in counts)


def known_counts(audits: Iterable[Mapping[str, Any]], machine: Mapping[str, Any], precision: str) -> set[int]:
    """Return the channel counts at which all operations on images are symmetric on a machine, in every mode."""
    symmetric: dict[int, bool] = {}
    for audit in audits:
        if _kind(audit["provenance"]["environment"]) != _kind(machine):
            continue
        for values in audit["rows"]:
            row = dict(zip(audit["columns"], values, strict=True))
            if (row["precision"], row["memory_format"], row["status"]) == (precision, "channels_last", "ok"):
                count = int(row["shape"].split("x")[1])
                symmetric[count] = symmetric.get(count, True) and bool(row["symmetric"])
    return {count for count, is_symmetric in symmetric.items() if is_symmetric}


def _kind(machine: Mapping[str, Any]) -> tuple[Any, ...]:
    release = ".".join(str(machine["torch"]).split(".")[:2])
    return machine["device"], machine["cpu_capability"], machine.get("cpu_dispatch"), machine["threads"], release


def _audits() -> list[Mapping[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(shipped_results().glob(AUDITS))]
