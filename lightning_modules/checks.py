"""Argument checks: each raises a ValueError that names the allowed values."""

from collections.abc import Iterable


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a ValueError naming the options unless ``value`` is one of ``allowed``."""
    options = list(allowed)
    if value not in options:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, options))}")


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise a ValueError naming the bounds unless ``low <= value <= high``."""
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value}: expected {bounds}")


def check_depth(family: str, depth: int, step: int, offset: int) -> None:
    """Raise a ValueError naming valid depths unless ``depth = step * n + offset`` with n >= 1."""
    blocks, rest = divmod(depth - offset, step)
    if rest or blocks < 1:
        examples = ", ".join(str(step * n + offset) for n in range(1, 5))
        raise ValueError(f"depth={depth}: {family} has depth {step}n + {offset} with n >= 1 ({examples}, ...)")
