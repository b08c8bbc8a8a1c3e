"""Names of the sources of randomness that differ between the runs of a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from symbreak.sweeps.report.noise_sources import SEEDS, perturbation, perturbation_kind


def treatment(config: Mapping[str, Any]) -> tuple:
    """Return the key by which runs are grouped: fixed seeds, perturbation and mode."""
    fixed = tuple(key for key in config if key.startswith(SEEDS) and config[key] is not None)
    change = [str(value) for key, value in config.items() if key.startswith("perturbation.") and not _is_seed(key)]
    return fixed, tuple(change) if perturbation_kind(config) else (), config.get("determinism.mode")


def _is_seed(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "seed"


def source_name(configs: Sequence[Mapping[str, Any]]) -> str:
    """Name the difference between runs: active sources with varying seeds, and a perturbation."""
    first = configs[0]
    varied = [name for name, key in _sources(first) if len({_seed(config, key) for config in configs}) > 1]
    everything = [name for name, _ in _sources(first)]
    parts = ["all seeds" if len(varied) == len(everything) > 1 else " + ".join(varied)] if varied else []
    if perturbation_kind(first) and len({_seed(config, "perturbation.seed") for config in configs}) > 1:
        parts.append(perturbation(first))
    if not parts and first.get("determinism.mode") not in (None, "strict"):
        parts.append(f"{first['determinism.mode']} kernels")
    return " + ".join(parts) or "nothing"


def _sources(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and seed of each source of randomness that the configuration has switched on."""

    def is_on(*names: str) -> bool:
        keys = (key for key in config if key.rsplit(".", 1)[-1] in names and not key.startswith(SEEDS))
        return any(config[key] not in (None, 0, False) for key in keys)

    on = {
        "init": True,
        "order": True,
        "augmentation": is_on("crop_padding", "flip", "cutout", "mixup"),
        "dropout": is_on("dropout", "disout"),
        "rounding": is_on("ulps"),
    }
    return [(name, f"{SEEDS}{name}") for name, is_there in on.items() if is_there]


def _seed(config: Mapping[str, Any], key: str) -> Any:
    seed = config.get(key)
    return config.get("seed_everything") if seed is None else seed
