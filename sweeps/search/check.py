"""Whether a sweep's commands, keys, values and metric are right, found out before anything starts."""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from symbreak.sweeps.engine.study import Store
from symbreak.sweeps.engine.workers import ForkServer
from symbreak.sweeps.errors import UsageError, nearest
from symbreak.sweeps.run.folder import flatten
from symbreak.sweeps.search import points, sweep_file
from symbreak.sweeps.search.sweep_file import SweepFile

SAFE_WAY = 'let the command hand parameters over by `--config, "${args_json_file}"`'
SAMPLE = 3
"""How many points of a random or bayes sweep are checked before it starts."""
DOCUMENTED_KEY = re.compile(r"^    ``([a-z_]+/[a-z_0-9]+(?:/<layer>)?)``", re.MULTILINE)
FROM_EVERY_RUN = tuple(f"{stage}/{measure}" for stage in ("train", "val", "test") for measure in ("loss", "accuracy"))


def first_points(sweep: SweepFile, count: int) -> list[dict[str, Any]]:
    """Return a grid's points, or the first points that a random or bayes sweep draws, without starting anything."""
    store = Store(sweep, InMemoryStorage())
    if store.grid:
        return store.grid
    claims = []
    for _ in range(min(count, store.total or count)):
        store.offer()
        claims.append(store.claim())
    return [claim.point.parameters for claim in claims if claim]


def covering(grid: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return points that hold every value of every parameter at least once."""
    seen: set[str] = set()
    chosen = []
    for point in grid:
        values = {points.identity({key: value}) for key, value in flatten(point).items()}
        if not values <= seen:
            seen |= values
            chosen.append(point)
    return chosen


def check_runs(commands: Sequence[list[str]], parameters: Sequence[dict[str, Any]], metric: str) -> None:
    """Parse the commands of some points as their runs will; imports torch, so call it in a process of its own.

    Args:
        commands: The words of each command, beginning with `symbreak fit`, `validate` or `test`.
        parameters: The parameters of each point.
        metric: The name of the sweep's metric, empty without one.

    Raises:
        UsageError: If a key or value is not valid, does not survive the command line, or nothing logs the metric.
    """
    from symbreak.sweeps.run.command import resolve

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
        if is_fragile and key in resolved and resolved[key] != value:
            raise UsageError(f"parameters.{key}: {value!r} arrives as {resolved[key]!r}; {SAFE_WAY}")


def _check_metric(metric: str, resolved: Mapping[str, Any]) -> None:
    is_own_network = str(resolved["model.class_path"]).startswith("symbreak.lightning_modules.")
    if not is_own_network or resolved.get("trainer.callbacks"):
        return  # somebody's own code may log anything
    known = logged_keys()
    family, _, layer = metric.partition("/")
    measure, _, layer = layer.partition("/")
    if (f"{family}/{measure}/<layer>" if layer else metric) not in known:
        raise UsageError(f"metric.name: nothing logs {metric!r}{nearest(metric, known)}")


def logged_keys() -> list[str]:
    """Return the keys that a run logs, with `<layer>` for a layer's name, as the callbacks' docstrings list them."""
    from symbreak.sweeps.run.command import CALLBACKS

    documented = [DOCUMENTED_KEY.findall(callback.__doc__ or "") for callback in CALLBACKS.values()]
    return [*FROM_EVERY_RUN, *(key for keys in documented for key in keys)]


def check_points(sweep: SweepFile, server: ForkServer) -> None:
    """Check the commands of points that hold every value, where they are this project's own.

    Raises:
        UsageError: Naming the sweep file and the key that is wrong.
    """
    if not sweep.is_symbreak or sweep_file.strip_env(sweep.command)[1:2] not in (["fit"], ["validate"], ["test"]):
        return
    chosen = covering(first_points(sweep, SAMPLE))
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for index, point in enumerate(chosen):
            json_file = Path(folder, f"{index}.json")
            json_file.write_text(json.dumps(point))
            commands.append(sweep_file.strip_env(sweep_file.expand_command(sweep, point, json_file)))
        try:
            server.call(check_runs, commands, chosen, sweep.metric.get("name", ""))
        except UsageError as error:
            raise UsageError(f"{sweep.path}: {error}") from None
