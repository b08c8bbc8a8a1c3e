"""The command `symbreak`; heavy imports are deferred to the commands that need them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("symbreak.sweeps.run.command:main", "train one network from a config, then test it"),
    "validate": ("symbreak.sweeps.run.command:main", "validate a checkpoint"),
    "test": ("symbreak.sweeps.run.command:main", "test a checkpoint"),
    "sweep": ("symbreak.sweeps.engine.command:sweep", "run a W&B sweep file, offline by default"),
    "audit": ("symbreak.sweeps.audit.command:audit", "find out which operations break symmetry on this machine"),
    "trace": ("symbreak.sweeps.trace.command:main", "name the operation that breaks the symmetry of a run"),
    "inspect": ("symbreak.sweeps.inspection.command:inspect", "show how diverse the weights of any network are"),
    "agents": ("symbreak.sweeps.engine.agents:agents", "join a sweep at W&B from another machine"),
    "compare": ("symbreak.sweeps.compare.command:compare", "show how far runs are apart"),
    "report": ("symbreak.sweeps.report.command:report", "show runs in one self-contained HTML page"),
    "record": ("symbreak.sweeps.record.command:record", "keep the results of a sweep in one small folder"),
    "dashboard": ("symbreak.sweeps.dashboard.command:dashboard", "make a W&B workspace and report"),
}
OWN_PARSER = {"fit", "validate", "test"}
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="symbreak",
        description="How identical features become different: train symmetric networks and watch what breaks them.",
        epilog="symbreak COMMAND --help tells about one command.",
    )
    parser.add_argument("--version", action="version", version=f"symbreak {version('symbreak')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _normalize(args: list[str], switches: set[str]) -> list[str]:
    """Accept options with dashes, switches without a value, and ``-o`` for ``--output``."""
    words = []
    for word, following in zip(args, [*args[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == "-o":
            name = "--output"
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            if name[2:] in switches and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
        words.append(name + equals + value)
    return words


def _dashed(text: str) -> str:
    """Return a help text with options as they are usually written: dashes, and switches without a value."""
    text = re.sub(r"(--\w+) \{true,false\}", r"\1", text)
    return re.sub(r"--\w+", lambda option: option[0].replace("_", "-"), text)


def _call(command: str, function: Callable[..., Any], args: list[str]) -> int:
    """Call a function with arguments parsed from the command line; its docstring is the help."""
    from inspect import getdoc, signature
    from textwrap import dedent

    from symbreak.sweeps.errors import OneLineParser, UsageError

    summary, _, rest = str(getdoc(function)).partition("\n")
    examples = rest.partition("Examples:\n")[2].partition("\nArgs:")[0]
    parser = OneLineParser(prog=f"symbreak {command}", description=summary)
    parameters = signature(function).parameters
    lists = {name for name, given in parameters.items() if given.default is given.empty and "list" in str(given)}
    for name in lists:
        parser.add_argument(name, nargs="+")
    parser.add_function_arguments(function, as_positional=True, skip={*lists})
    switches = {name for name, given in parameters.items() if given.annotation in (bool, "bool")}
    if {"-h", "--help"} & set(args):
        print(_dashed(parser.format_help()) + (f"\nexamples:\n{dedent(examples)}" if examples else ""))
        return 0
    options = parser.parse_args(_normalize(args, switches)).as_dict()
    for name, given in options.items():
        if given == "" or (name in lists and "" in map(str, given)):
            raise UsageError(f"{name.upper() if name in lists else name}: the name is empty")
    result = function(**options)
    if isinstance(result, int):
        return result
    for line in result if isinstance(result, list) else [result]:
        if isinstance(line, (str, Path)):
            print(line)
    return 0


def _run(command: str, args: list[str]) -> int:
    from symbreak.sweeps.paths import import_from_here

    import_from_here()
    if command in OWN_PARSER:
        from symbreak.sweeps.run.arguments import prepare
        from symbreak.sweeps.run.help import is_short, short_help

        if is_short(args):
            print(short_help(command))
            return 0
        args = prepare([command, *args])
    module, _, name = COMMANDS[command][0].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function(args) if command in (*OWN_PARSER, "trace") else _call(command, function, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Only this function turns exceptions into one line on standard error. The exit code is 2 for bad input, 1 for an
    internal error and 130 for Ctrl-C. With SYMBREAK_TRACEBACK=1 the traceback precedes the line.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    command = _parser().parse_args(args[:1]).command
    try:
        code = _run(command, args[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"symbreak {command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from symbreak.sweeps.errors import report

        return report(command, error)


if __name__ == "__main__":
    sys.exit(main())
