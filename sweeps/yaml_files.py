"""YAML and JSON files of a user, read with checks that name the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from symbreak.sweeps.errors import UsageError, condensed

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        UsageError: If the file cannot be read, is not UTF-8, is not YAML, holds no mapping, or gives a key twice.
    """
    try:
        return parse_mapping(path.read_bytes().decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON text; ``name`` is its source in error messages.

    Raises:
        UsageError: If the text is not YAML, holds no mapping, or gives a key twice.
    """
    try:
        node = yaml.compose(text, Loader=_LOADER)
        for key, first, second in _duplicates(node, "", set()):
            raise UsageError(f"{name}: {key!r} is given twice, in lines {first} and {second}")
        content = yaml.load(text, _LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{name}{where}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name}: not YAML: {condensed(str(error)) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{name}: expected a mapping of keys to values, found {_KINDS.get(type(content), 'a value')}")
    return content


_KINDS = {list: "a list", str: "text", type(None): "nothing"}


def _duplicates(node: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield keys that a mapping gives twice, with the lines of both."""
    if node is None or id(node) in seen:  # an alias, which may be recursive
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicates(child, prefix, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = key.value, key.start_mark.line + 1
            if name in lines:
                yield prefix + name, lines[name], line
            lines[name] = line
            yield from _duplicates(value, f"{prefix}{name}.", seen)
