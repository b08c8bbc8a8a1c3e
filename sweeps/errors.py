"""One-line error messages: what is wrong with the input, or how to get the traceback of an internal error."""

from __future__ import annotations

import difflib
import dis
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import NoReturn

from jsonargparse import ArgumentParser

TRACEBACK_VARIABLE = "SYMBREAK_TRACEBACK"
PAIR_REMEDY = (
    "torch and torchvision do not belong together in this environment. Install both in one go: "
    "pip install --force-reinstall torch torchvision"
)
USAGE, INTERNAL = 2, 1
"""Exit codes of bad input and of an internal error."""
LONGEST = 600
FOREIGN_REFUSALS = ("lightning_fabric.utilities.exceptions", "wandb.errors", "optuna.exceptions", "jsonargparse")
"""Modules whose exceptions describe bad input."""
CHECKED = ("symbreak.", "torch.optim.")
"""Modules whose ``raise`` statements check user arguments."""


class UsageError(ValueError):
    """Bad input; its message is one line that names what is wrong and what is allowed."""


def one_line(error: BaseException) -> tuple[str, int]:
    """Return the one-line message of an exception, and the exit code.

    Errors from a check of this package, from the operating system, or from a library in `FOREIGN_REFUSALS` about its
    arguments are bad input. Any other exception is an internal error.
    """
    message = condensed(str(error))
    if isinstance(error, UsageError):
        return message, USAGE
    if "torchvision::" in message:
        return PAIR_REMEDY, USAGE
    if "out of memory" in message.lower() or "can't allocate memory" in message or isinstance(error, MemoryError):
        return f"out of memory: {message or type(error).__name__}", USAGE
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if error.filename is not None else "reading or writing"
        return f"{os.fsdecode(name) if isinstance(name, (str, bytes)) else name}: {error.strerror}", USAGE
    is_foreign = type(error).__module__.startswith(FOREIGN_REFUSALS)
    if message and (is_foreign or isinstance(error, OSError)):
        return message, USAGE
    if message and isinstance(error, (ValueError, TypeError)) and _is_deliberate(error.__traceback__):
        return message, USAGE
    notes, where = getattr(error, "__notes__", ()), _line_of_user(error.__traceback__)
    hint = notes[-1] if notes else f"set {TRACEBACK_VARIABLE}=1 to see where"
    said = ": ".join(part for part in (where or "internal error", type(error).__name__, message) if part)
    return f"{said} ({hint})", INTERNAL


def condensed(message: str) -> str:
    """Return a message as one line of bounded length; for an error in a worker process, the worker's error."""
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2] or message
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def refusal_in(error: BaseException) -> BaseException:
    """Return the error in a chain of causes that this package raised on purpose, else the first cause."""
    while error.__cause__ is not None and not _is_deliberate(error.__traceback__):
        error = error.__cause__
    return error


def _line_of_user(trace: TracebackType | None) -> str | None:
    """Return the innermost line of the traceback that belongs neither to this package nor to an installed one."""
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    found = None
    for frame, line in traceback.walk_tb(trace):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if not module.startswith("symbreak.") and os.path.isfile(file) and not file.startswith(installed):
            found = f"{file}, line {line}"
    return found


def _is_deliberate(trace: TracebackType | None) -> bool:
    """Return whether the error comes from a ``raise`` statement in `CHECKED`, not from a library or a bug."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not str(trace.tb_frame.f_globals.get("__name__")).startswith(CHECKED):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def report(command: str, error: BaseException) -> int:
    """Print an exception in one line on standard error, after its traceback if that was requested."""
    message, code = one_line(error)
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error)
    print(f"symbreak {command}: error: {message}", file=sys.stderr)
    return code


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the allowed name closest to ``name``, or an empty string.

    Keys are compared by their last part too, so that ``model.widen_factr`` finds ``model.init_args.widen_factor``.
    """
    names, tail = sorted(allowed), name.rsplit(".", 1)[-1]
    close = [
        key
        for key in difflib.get_close_matches(name, names, 3, 0.75)
        if difflib.SequenceMatcher(None, tail, key.rsplit(".", 1)[-1]).ratio() > 0.5
    ]
    if not close:
        tails = {key.rsplit(".", 1)[-1]: key for key in reversed(names)}
        close = [tails[found] for found in difflib.get_close_matches(tail, tails, 1, 0.7)]
    return f"; did you mean {close[0]!r}?" if close else ""


TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
    "list": "a list",
    "collections.abc.Sequence": "a list",
    "dict": "a mapping",
}


def explain(message: str, allowed: Iterable[str] = ()) -> str:
    """Condense a parser's nested message into one line: the whole key, then what is wrong with it.

    Args:
        message: The multi-line message of jsonargparse.
        allowed: The valid dotted keys, to suggest the nearest where a key is unknown.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if "Problem with given class_path" in message and len(keys) > 1:
        keys.insert(1, "init_args")
    key = ".".join(keys)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        name = ".".join([*keys, *(["init_args"] if "init_args" not in keys else []), unknown[1]])
        return f"unknown key {name!r}{nearest(name, allowed)}"
    if unknown := re.search(r"[Uu]nrecognized arguments: --([^\s=]+)|Key '([^']+)' is not expected", message):
        name = unknown[1] or ".".join([*keys, unknown[2]])
        return f"unknown key {name!r}{nearest(name, allowed)}"
    if unknown := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        return f"{unknown[1]!r} is no option: every option begins with --"
    said = _about_a_class(message) or _about_a_value(message) or condensed(re.sub(r'Parser key "[^"]+":', "", message))
    return f"{key}: {said}" if key else said


def _about_a_class(message: str) -> str | None:
    if missing := re.search(r"class_path '([^']+)':\s+the following arguments are required: (.+)", message):
        return f"{missing[1]} needs {missing[2]}"
    if foreign := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message):
        return f"{foreign[1]} is no {foreign[2]}"
    if broken := re.search(r"class_path '([^']+)':\s+((?:module|No module|cannot import|name) .+)", message):
        return f"{broken[1]} cannot be imported: {broken[2]}"
    return None


def _about_a_value(message: str) -> str | None:
    """Return the invalid value and the valid ones, or None if the message is not about a value."""
    choices = [choice.replace("'", "") for choice in re.findall(r"Expected a typing\.Literal\[(.+?)\]", message)]
    types = [TYPES.get(name) for name in re.findall(r"Expected a <class '([\w.]+)'>", message)]
    expected = [*choices, *dict.fromkeys(name for name in types if name)]
    path = re.search(r"Expected a dot import path string: (.*)", message)
    got = re.search(r"Got value: (.*)", message) or path or re.search(r"Given value: (.*)", message)
    if got is None:
        return None
    value = got[1].strip().strip("'")
    if path and not {"a number", "a whole number", "true or false"} & set(expected):
        return f"{value!r} is neither a known class nor an import path"
    return f"{value!r} is not allowed; allowed: {', '.join(expected)}" if expected else None


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line instead of a page of usage."""

    def valid_keys(self) -> Iterable[str]:
        """Return the valid keys, from which the nearest to an unknown key is suggested."""
        return [action.dest for action in self._actions]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's message.

        Raises:
            UsageError: Always.
        """
        if not self.exit_on_error:  # a nested parser, whose message becomes part of the outer parser's
            super().error(message, ex)
        raise UsageError(explain(message, self.valid_keys())) from ex
