"""What could break a run's symmetry, read off its configuration."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOURCE_NAMES = frozenset(
    {"noise_scale", "dropout", "stem_dropout", "disout", "ulps", "precision", "devices", "num_nodes"}
)
SOURCE_KEYS = frozenset({"determinism.mode", "rounding_noise.seed", "trainer.strategy"})
FLOAT32 = frozenset({"32-true", "32", "None"})


@dataclass(frozen=True)
class Source:
    """Initial noise of a scale, and whatever else tells identical channels apart."""

    noise_scale: float
    others: tuple[str, ...]

    @property
    def label(self) -> str:
        """`rounding noise 1 ulp + dropout 1 %`, or `none`; initial noise is not part of it."""
        return " + ".join(self.others) or "none"


def is_source_key(key: str) -> bool:
    """Whether a configuration key chooses a source of symmetry breaking."""
    return key in SOURCE_KEYS or key.rsplit(".", 1)[-1] in SOURCE_NAMES


def source_of(config: Mapping[str, Any]) -> Source:
    """The sources of symmetry breaking in a flat configuration."""
    others: list[str] = []
    noise = 0.0
    for key, value in config.items():
        name = key.rsplit(".", 1)[-1]
        amount = _positive(value)
        if name == "noise_scale":
            noise = max(noise, amount)
        elif key == "rounding_noise.ulps" and amount:
            others.append(f"rounding noise {amount:g} ulp{'' if amount == 1 else 's'}")
        elif name in ("dropout", "disout") and amount:
            others.append(f"{name} {100 * amount:g} %")
        elif name == "stem_dropout" and value:
            others.append("stem dropout")
    others += [label for label in (_mode(config), _precision(config), _reduction(config)) if label]
    return Source(noise, tuple(others))


def _positive(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


def _mode(config: Mapping[str, Any]) -> str | None:
    mode = config.get("determinism.mode")
    return None if mode in (None, "strict") else f"{mode} mode"


def _precision(config: Mapping[str, Any]) -> str | None:
    precision = str(config.get("trainer.precision"))
    return None if precision in FLOAT32 else f"precision {precision}"


def _reduction(config: Mapping[str, Any]) -> str | None:
    ranks = _count(config.get("trainer.devices")) * _count(config.get("trainer.num_nodes"))
    ordered = "ordered_all_reduce" in " ".join(str(v) for k, v in config.items() if k.startswith("trainer.strategy"))
    return f"{'ordered ' if ordered else ''}all-reduce over {ranks} ranks" if ranks > 1 else None


def _count(value: Any) -> int:
    """Number of devices or nodes; 1 where the setting (`auto`, -1) leaves it open."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return 1
    if isinstance(parsed, list):
        return len(parsed)
    return parsed if isinstance(parsed, int) and parsed > 0 else 1
