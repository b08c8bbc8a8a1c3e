"""Group runs into arms, and label the arms."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from symbreak.sweeps.report.noise_sources import SEEDS, is_source_key
from symbreak.sweeps.run.record import CALLBACKS

OFF = (0, "auto")
"""Values of a source of symmetry breaking that switch it off, or keep the behaviour of a single device."""
SEED_NAMES = ("seed", "seed_everything")
_SEED_PART = re.compile(r"(^|, )([\w.]*\.)?seed(_everything)?=[^,]*")
BOOKKEEPING = ("run", "wandb", "config", "ckpt_path")
_BOOKKEEPING_PREFIXES = ("run.", "wandb.", "trainer.logger", "trainer.default_root_dir", f"{CALLBACKS}.ModelCheckpoint")


def varying_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the configuration keys in which arms differ: not equal in all runs, and neither a seed nor bookkeeping."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if _tells_apart(key) and len({_value(c, key) for c in configs}) > 1]


def _tells_apart(key: str) -> bool:
    is_seed = key.rsplit(".", 1)[-1] in SEED_NAMES
    return not (is_seed or key in BOOKKEEPING or key.startswith(_BOOKKEEPING_PREFIXES))


def arm_labels(configs: Sequence[Mapping[str, Any]], given: Sequence[str | None]) -> list[str]:
    """Return one label per run; runs that differ only in their seeds share it.

    Args:
        configs: Flat configuration of each run.
        given: Label that the sweep gave to each run, or None. It is kept where all runs of a group agree on it
            and no other group has it; otherwise the label lists the values in which the group differs.
    """
    keys = varying_keys(configs)
    groups = [tuple(_value(config, key) for key in keys) for config in configs]
    labels_of: dict[tuple, set[str | None]] = {}
    for group, label in zip(groups, given, strict=True):
        labels_of.setdefault(group, set()).add(_SEED_PART.sub("", label or "").removeprefix(", ") or None)
    owners: dict[str | None, int] = {}
    for labels in labels_of.values():
        for label in labels:
            owners[label] = owners.get(label, 0) + 1
    names: dict[tuple, str] = {}
    for group, config in zip(groups, configs, strict=True):
        labels = labels_of[group]
        own = next(iter(labels)) if len(labels) == 1 else None
        names[group] = own if own and owners[own] == 1 else describe(config, keys)
    return [names[group] for group in groups]


def describe(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return `noise_scale=0.001, mode=strict`: keys by their last components, dotted further where those collide.

    Sources of symmetry breaking that are off are left out, unless nothing else is left.
    """
    short = short_names(keys)
    known = [key for key in keys if config.get(key) is not None and not _is_idle(config, key)]
    named = [key for key in known if config[key] not in OFF or not is_source_key(key)] or known
    return ", ".join(f"{short[key]}={readable(_value(config, key))}" for key in named) or "all runs"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest dotted suffix of each key that no other key shares (`init_args` left out)."""
    parts = {key: [p for p in key.split(".") if p != "init_args"] or [key] for key in keys}
    result = {}
    for key, own in parts.items():
        for size in range(1, len(own) + 1):
            suffix = own[-size:]
            if sum(other[-size:] == suffix for other in parts.values()) == 1:
                break
        result[key] = ".".join(suffix)
    return result


def readable(value: Any) -> str:
    """Return a configuration value in its shortest form: 1e-8, 0.03, the last component of an import path."""
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", f"{value:g}").replace("e+", "e")
    text = str(value)
    return text.rsplit(".", 1)[-1] if text.replace(".", "").replace("_", "").isidentifier() else text


def _value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value by which arms differ: for a source's own seed, only whether it is fixed."""
    value = config.get(key)
    return "fixed" if key.startswith(SEEDS) and value is not None else _hashable(value)


def _is_idle(config: Mapping[str, Any], key: str) -> bool:
    """Return whether a key belongs to a perturbation that is switched off."""
    return key.startswith("perturbation.") and config.get("perturbation.kind") in (None, "none")


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else json.dumps(value, default=str)
