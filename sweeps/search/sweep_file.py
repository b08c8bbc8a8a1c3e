"""W&B sweep files: reading them, checking them, and building each point's command as `wandb agent` would."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from symbreak.sweeps.errors import UsageError, nearest
from symbreak.sweeps.search import space

METHODS = ("grid", "random", "bayes")
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
TOP_KEYS = (
    *("program", "entity", "project", "description", "name", "method", "metric", "parameters", "early_terminate"),
    *("command", "run_cap", "controller", "apiVersion", "kind"),
)
METRIC_KEYS = ("name", "goal", "target", "impute")
HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
LARGEST_GRID = 1_000_000
ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that was read and checked.

    Attributes:
        path: The file.
        name: `name` in the file, else its stem; also the name of the sweep's folder and study.
        method: grid, random or bayes.
        parameters: W&B's parameter forms by name, possibly nested.
        command: Command that starts a run, with W&B's macros.
        program: Value of `${program}`.
        metric: `name`, `goal` (minimize unless given) and perhaps `target`; empty without a metric.
        early_terminate: `min_iter` and `eta` of hyperband; empty without early termination.
        run_cap: The largest number of runs, None for no limit.
        content: Whole content of the file.
    """

    path: Path
    name: str
    method: str
    parameters: dict[str, Any]
    command: list[str]
    program: str
    metric: dict[str, Any]
    early_terminate: dict[str, Any]
    run_cap: int | None
    content: dict[str, Any] = field(repr=False)

    @property
    def needs_metric(self) -> bool:
        """Whether the sweep's course depends on the metric of every run."""
        return self.method == "bayes" or bool(self.early_terminate)

    @property
    def is_symbreak(self) -> bool:
        """Whether every run is `symbreak fit|validate|test`, whose keys are known before anything starts."""
        return strip_env(self.command)[:1] == ["symbreak"]


def strip_env(command: Sequence[str]) -> list[str]:
    """Return the command without the leading `${env}` macro or its value."""
    return list(command[1:] if command and command[0] in ("${env}", "/usr/bin/env") else command)


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader that rejects duplicate keys instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1 and key != "<<":
                raise ValueError(f"{key}: given twice, again in line {node.start_mark.line + 1} and after")
        return super().construct_mapping(node, deep)


def load(path: Path) -> SweepFile:
    """Read and check a W&B sweep file.

    Args:
        path: The YAML file.

    Returns:
        The checked sweep.

    Raises:
        UsageError: Naming the file, the key and what is wrong with it.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        return parse(content, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def parse(content: Any, path: Path) -> SweepFile:
    """Check the content of a sweep file.

    Args:
        content: The parsed YAML.
        path: Path of the file, whose stem is the default name of the sweep.

    Returns:
        The checked sweep.

    Raises:
        ValueError: Naming the key and what is wrong with it.
    """
    if not isinstance(content, dict) or not {"method", "parameters"} <= content.keys():
        raise ValueError("not a W&B sweep file: it needs `method` and `parameters`")
    check_keys(content, TOP_KEYS, "")
    if content["method"] not in METHODS:
        raise ValueError(f"method: {content['method']!r} is not one of {', '.join(METHODS)}")
    space.check_parameters(content["parameters"], grid=content["method"] == "grid")
    if content["method"] == "grid":
        _check_size(space.grid_size(content["parameters"]), content.get("run_cap"))
    command = content.get("command", list(COMMAND))
    if not isinstance(command, list) or not command:
        raise ValueError("command: a list of words is needed")
    if "program" not in content and "${program}" in command:
        raise ValueError("program: needed, because the command uses ${program}")
    metric = _metric(content)
    return SweepFile(
        path=path,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", str(content.get("name", path.stem))).strip("-.") or "sweep",
        method=content["method"],
        parameters=content["parameters"],
        command=[str(word) for word in command],
        program=str(content.get("program", "")),
        metric=metric,
        early_terminate=_hyperband(content, metric),
        run_cap=_run_cap(content),
        content=content,
    )


def _check_size(points: int, cap: Any) -> None:
    if points > LARGEST_GRID and not (isinstance(cap, int) and cap <= LARGEST_GRID):
        raise ValueError(f"parameters: a grid of {points:,} points; at most {LARGEST_GRID:,} without a smaller run_cap")


def check_keys(mapping: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Raise a ValueError that names the first key that is not allowed, and the nearest one that is."""
    allowed = list(allowed)
    for key in mapping:
        if key not in allowed:
            raise ValueError(f"{where}{key}: unknown key{nearest(str(key), allowed)}")


def _metric(content: Mapping[str, Any]) -> dict[str, Any]:
    metric = content.get("metric", {})
    if not metric:
        if content["method"] == "bayes" or "early_terminate" in content:
            raise ValueError("metric: needed by method bayes and by early_terminate")
        return {}
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError("metric.name: the name of a logged metric is needed")
    check_keys(metric, METRIC_KEYS, "metric.")
    if metric.setdefault("goal", "minimize") not in ("minimize", "maximize"):
        raise ValueError(f"metric.goal: {metric['goal']!r} is not one of minimize, maximize")
    if "target" in metric:
        space.check_number("metric", metric, "target")
    return metric


def _hyperband(content: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    rule = content.get("early_terminate")
    if rule is None:
        return {}
    if not isinstance(rule, dict) or rule.get("type") != "hyperband":
        raise ValueError("early_terminate.type: hyperband is the only one")
    check_keys(rule, HYPERBAND_KEYS, "early_terminate.")
    if "min_iter" not in rule and not {"max_iter", "s"} <= rule.keys():
        raise ValueError("early_terminate: min_iter, or max_iter and s, is needed")
    for key in rule.keys() - {"type", "strict"}:
        space.check_number("early_terminate", rule, key)
    eta = rule.get("eta", 3)
    if int(eta) != eta or eta < 2:
        raise ValueError(f"early_terminate.eta: a whole number of at least 2 is needed, not {eta}")
    min_iter = rule.get("min_iter") or max(1, int(rule["max_iter"] / eta ** rule["s"]))
    return {"min_iter": int(min_iter), "eta": int(eta)}


def _run_cap(content: Mapping[str, Any]) -> int | None:
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise ValueError(f"run_cap: a whole number of at least 1 is needed, not {cap!r}")
    return cap


def expand_command(sweep: SweepFile, parameters: Mapping[str, Any], json_file: Path | str) -> list[str]:
    """Fill in W&B's command macros for one point.

    Args:
        sweep: The sweep, for its command and program.
        parameters: The point's value by parameter name; nested parameters are dictionaries.
        json_file: Value of `${args_json_file}`; the caller writes the file.

    Returns:
        The words of the command, exactly as `wandb agent` builds them.
    """
    flags = [f"{name}={value}" for name, value in parameters.items()]
    macros = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [sweep.program],
        "args": [f"--{flag}" for flag in flags],
        "args_no_hyphens": flags,
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
        "args_no_equals": [word for name, value in parameters.items() for word in (f"--{name}", str(value))],
        "args_no_boolean_flags": [_boolean_flag(*item) for item in parameters.items() if item[1] is not False],
        "args_json": [json.dumps(dict(parameters))],
        "args_json_file": [str(json_file)],
    }
    words: list[str] = []
    for chunk in sweep.command:
        word = ENVIRONMENT_MACRO.sub(lambda match: os.environ.get(match[1], match[1]), chunk)
        is_macro = word.startswith("${") and word.endswith("}")
        words += macros.get(word[2:-1], []) if is_macro else [word]
    return words


def _boolean_flag(name: str, value: Any) -> str:
    return f"--{name}" if value is True else f"--{name}={value}"
