"""Checks of a sweep's commands, keys, values and metric before anything starts."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from symbreak.sweeps.errors import UsageError, nearest
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.search import sweep_file
from symbreak.sweeps.search.sweep_file import SweepFile

SAFE_WAY = 'let the command hand parameters over by `--config, "${args_json_file}"`'
DOCUMENTED_KEY = re.compile(r"^    ``([a-z_]+/[a-z_0-9]+(?:/<layer>)?)``", re.MULTILINE)
FROM_EVERY_RUN = tuple(f"{stage}/{measure}" for stage in ("train", "val", "test") for measure in ("loss", "accuracy"))


def check_runs(commands: Sequence[list[str]], parameters: Sequence[dict[str, Any]], metric: str) -> None:
    """Parse the commands of some points as their runs will; imports torch, so call it in a process of its own.

    Args:
        commands: The words of each command, beginning with `symbreak fit`, `validate` or `test`.
        parameters: The parameters of each point.
        metric: The name of the sweep's metric, empty without one.

    Raises:
        UsageError: If a key or value is invalid or changes on the command line, or nothing logs the metric.
    """
    from symbreak.sweeps.run.parser import resolve

    for command, point in zip(commands, parameters, strict=True):
        try:
            resolved = resolve(command[1:])
        except UsageError as error:
            lost = [key for key, value in flatten(point).items() if value is None and key in str(error)]
            raise UsageError(f"{error}; {SAFE_WAY}" if lost else str(error)) from None
        _check_survival(flatten(point), resolved)
        if metric:
            _check_metric(metric, resolved)


def _check_survival(point: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    for key, value in point.items():
        is_fragile = value is None or isinstance(value, bool | list)
        if is_fragile and key in resolved and not _is_same(value, resolved[key]):
            raise UsageError(f"parameters.{key}: {value!r} arrives as {resolved[key]!r}; {SAFE_WAY}")


def _is_same(given: Any, arrived: Any) -> bool:
    """Whether a value survived parsing, which adds defaults to entries that name a class."""
    if isinstance(given, list) and isinstance(arrived, list) and any(isinstance(entry, Mapping) for entry in arrived):
        return [_class(entry) for entry in given] == [_class(entry) for entry in arrived]
    return given == arrived


def _class(entry: Any) -> str:
    path = entry.get("class_path") if isinstance(entry, Mapping) else entry
    return str(path).rpartition(".")[2]


def _check_metric(metric: str, resolved: Mapping[str, Any]) -> None:
    is_own_network = str(resolved["model.class_path"]).startswith("symbreak.lightning_modules.")
    if not is_own_network or resolved.get("trainer.callbacks"):
        return  # user code may log any key
    known = logged_keys()
    family, _, layer = metric.partition("/")
    measure, _, layer = layer.partition("/")
    if (f"{family}/{measure}/<layer>" if layer else metric) not in known:
        raise UsageError(f"metric.name: nothing logs {metric!r}{nearest(metric, known)}")


def logged_keys() -> list[str]:
    """Return the keys that a run logs, with `<layer>` for a layer's name, as the callbacks' docstrings list them."""
    from symbreak.sweeps.run.parser import CALLBACKS

    documented = [DOCUMENTED_KEY.findall(callback.__doc__ or "") for callback in CALLBACKS.values()]
    return [*FROM_EVERY_RUN, *(key for keys in documented for key in keys)]


def check_points(sweep: SweepFile, chosen: Sequence[dict[str, Any]], call: Callable[..., Any]) -> None:
    """Check the commands of some points, if they are commands of this project.

    Args:
        sweep: The sweep.
        chosen: Points that hold every value that is to be checked.
        call: Calls a function in a process of its own.

    Raises:
        UsageError: Naming the sweep file and the key that is wrong.
    """
    if not sweep.is_symbreak or sweep_file.strip_env(sweep.command)[1:2] not in (["fit"], ["validate"], ["test"]):
        return
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for index, point in enumerate(chosen):
            json_file = Path(folder, f"{index}.json")
            json_file.write_text(json.dumps(point))
            commands.append(sweep_file.strip_env(sweep_file.expand_command(sweep, point, json_file)))
        try:
            call(check_runs, commands, chosen, sweep.metric.get("name", ""))
        except UsageError as error:
            raise UsageError(f"{sweep.path}: {error}") from None
