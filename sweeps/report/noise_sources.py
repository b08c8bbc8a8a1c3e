"""Possible sources of symmetry breaking of a run, from its configuration and its run.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOURCE_NAMES = frozenset(
    {"noise_scale", "dropout", "stem_dropout", "regularizer", "ulps", "precision", "devices", "num_nodes"}
)
PERTURBATION = "perturbation"
SOURCE_KEYS = frozenset({"determinism.mode"})
STRATEGY = "trainer.strategy"
SEEDS = "seeds."
"""Prefix of the keys of single sources' seeds, followed by the source's name."""
FLOAT32 = (None, "32-true", "32", 32)
ORDERED = ("OrderedDDPStrategy", "ordered_all_reduce")
ALL_REDUCE = ("auto", "ddp")
"""Prefixes of the names of strategies that average gradients by a plain all-reduce."""


@dataclass(frozen=True)
class NoiseSource:
    """Scale of the initial noise, and the other sources of symmetry breaking."""

    noise_scale: float
    others: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return `rounding noise 1 ulp + dropout 1 %`, or `none`, without initial noise."""
        return " + ".join(self.others) or "none"


def is_source_key(key: str) -> bool:
    """Return whether a configuration key chooses a source of symmetry breaking."""
    if key.startswith(SEEDS):
        return False
    parts = _is_part(key, STRATEGY) or _is_part(key, PERTURBATION)
    return parts or key in SOURCE_KEYS or key.rsplit(".", 1)[-1] in SOURCE_NAMES


def source_of(config: Mapping[str, Any], meta: Mapping[str, Any]) -> NoiseSource:
    """Return the sources of symmetry breaking of a run.

    Args:
        config: The run's configuration under dotted keys.
        meta: Its run.json, which holds the world size if the configuration says `auto`.
    """
    others: list[str] = []
    noise = 0.0
    for key, value in config.items():
        if key.startswith(SEEDS):
            continue
        name = key.rsplit(".", 1)[-1]
        amount = _positive(value)
        if name == "noise_scale":
            noise = max(noise, amount)
        elif key == "rounding_noise.ulps" and amount:
            others.append(f"rounding noise {amount:g} ulp{'' if amount == 1 else 's'}")
        elif name == "dropout" and amount:
            others.append(f"{config.get(f'{key[: -len(name)]}regularizer', name)} {100 * amount:g} %")
        elif name == "stem_dropout" and value:
            others.append("stem dropout")
    labels = (perturbation(config), _mode(config), _precision(config), _reduction(config, meta))
    others += [label for label in labels if label]
    return NoiseSource(noise, tuple(others))


def _is_part(key: str, of: str) -> bool:
    return key == of or key.startswith(f"{of}.")


def _positive(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


def perturbation_kind(config: Mapping[str, Any]) -> str | None:
    """Return the kind of the perturbation, or None without one."""
    kind = config.get("perturbation.kind")
    return None if kind in (None, "none") else str(kind)


def perturbation(config: Mapping[str, Any]) -> str:
    """Return `bit 0 of one weight at step 200`, empty without a perturbation."""
    kind = perturbation_kind(config)
    if kind is None:
        return ""
    where = {"weight": "one weight", "layer": "one layer", "all": "all weights"}[str(config["perturbation.scope"])]
    what = {"bit": f"bit {config.get('perturbation.bit')} of", "ulp": "one ulp of"}.get(kind)
    what = what or f"noise of {float(config['perturbation.scale']):g} on"
    return f"{what} {where} at step {config['perturbation.step']}"


def _mode(config: Mapping[str, Any]) -> str | None:
    mode = config.get("determinism.mode")
    return None if mode in (None, "strict") else f"{mode} mode"


def _precision(config: Mapping[str, Any]) -> str | None:
    precision = config.get("trainer.precision")
    return None if precision in FLOAT32 else f"precision {precision}"


def _reduction(config: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """Return how gradients are averaged over ranks, None on a single rank."""
    ranks = world_size(config, meta)
    if ranks < 2:
        return None
    given = [str(value) for key, value in config.items() if _is_part(key, STRATEGY)]
    if any(value.endswith(ORDERED) for value in given):
        return f"ordered all-reduce over {ranks} ranks"
    strategy = str(config.get(STRATEGY, config.get(f"{STRATEGY}.class_path", "auto"))).rsplit(".", 1)[-1]
    return f"{'all-reduce' if strategy.lower().startswith(ALL_REDUCE) else strategy} over {ranks} ranks"


def world_size(config: Mapping[str, Any], meta: Mapping[str, Any]) -> int:
    """Return a run's number of ranks: the recorded one, else that of its configuration."""
    noted = meta.get("environment")
    ranks = noted.get("world_size") if isinstance(noted, Mapping) else None
    if isinstance(ranks, int):
        return ranks
    return _count(config.get("trainer.devices")) * _count(config.get("trainer.num_nodes"))


def _count(value: Any) -> int:
    """Return the number of devices or nodes; 1 if the setting (`auto`, -1) does not state it."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return 1
    if isinstance(parsed, list):
        return len(parsed)
    return parsed if isinstance(parsed, int) and parsed > 0 else 1
