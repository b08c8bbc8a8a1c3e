import json
from pathlib import Path

import pytest
import yaml
from wandb import wandb_agent
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.search import points, space, sweep_file
from symbreak.sweeps.search.draw import suggest_point

SWEEPS = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))
GRID = {"method": "grid", "program": "train.py", "parameters": {"x": {"values": [1, 2]}}}
BAYES = {"method": "bayes", "program": "train.py", "parameters": {"x": {"min": 0.0, "max": 1.0}}}


def wandb_command(sweep, parameters, monkeypatch, folder):
    """Return the command that W&B's own agent starts for a point, and the JSON file it writes."""
    commands = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda **options: commands.append(options["command"]) or Started())
    for name, value in (("WANDB_SWEEP_ID", "s"), ("WANDB_RUN_ID", "r"), ("WANDB_DIR", str(folder))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent._in_jupyter = agent._forward_signals = False
    agent._function = None
    agent._sweep_command, agent._run_processes = list(sweep.command), {}
    arguments = {name: {"value": value} for name, value in parameters.items()}
    agent._command_run({"type": "run", "run_id": "r", "program": sweep.program, "args": arguments})
    return commands[0], folder / "wandb" / "sweep-s" / "config-r.json"


class Started:
    last_sigterm_time = None


@pytest.mark.parametrize(
    "macro",
    [
        *("args", "args_no_hyphens", "args_no_equals", "args_no_boolean_flags", "args_json", "args_json_file"),
        *("args_append_hydra", "args_override_hydra", "nosuch", "envvar:SYMBREAK_TEST", "envvar:SYMBREAK_UNSET"),
    ],
)
def test_command_equals_that_of_wandb(macro, monkeypatch, tmp_path):
    monkeypatch.setenv("SYMBREAK_TEST", "from the environment")
    command = ["${env}", "${interpreter}", "${program}", "fit", "${" + macro + "}", "--to=${envvar:SYMBREAK_TEST}/a"]
    sweep = sweep_file.parse(GRID | {"command": command}, Path("x.yaml"))
    values = {"a": 1, "b.c": 1e-7, "d": None, "e": True, "f": False, "g": [1, None], "h": "two words", "i": {"j": 0.5}}
    expected, json_file = wandb_command(sweep, values, monkeypatch, tmp_path)
    assert sweep_file.expand_command(sweep, values, json_file) == expected
    assert len(expected) >= 4
    if macro == "args_json_file":
        assert json.loads(json_file.read_text()) == values


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_files_are_valid_and_expand_as_at_wandb(path, monkeypatch, tmp_path):
    content = yaml.safe_load(path.read_text())
    _validate_config_and_fill_distribution(content)
    sweep = sweep_file.load(path)
    assert sweep.name == path.stem
    assert sweep.is_symbreak
    comment = path.read_text().partition("name:")[0]
    for word in ("# Question:", "# Cost:", "# Reading it:"):
        assert word in comment
    for point in first_points(sweep):
        expected, json_file = wandb_command(sweep, point, monkeypatch, tmp_path)
        assert sweep_file.expand_command(sweep, point, json_file) == expected


def first_points(sweep):
    if sweep.method == "grid":
        return space.grid_points(sweep.parameters)
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest_point(study.ask(), sweep.parameters) for _ in range(3)]


def test_defaults():
    sweep = sweep_file.parse(GRID, Path("some/file.yaml"))
    assert (sweep.name, sweep.metric, sweep.run_cap, sweep.early_terminate) == ("file", {}, None, {})
    assert sweep_file.expand_command(sweep, {"x": 1}, "") == ["/usr/bin/env", "python", "train.py", "--x=1"]
    assert not sweep.is_symbreak
    bayes = sweep_file.parse(BAYES | {"metric": {"name": "m"}, "name": "a b/c"}, Path("file.yaml"))
    assert (bayes.name, bayes.metric["goal"]) == ("a-b-c", "minimize")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"min_iter": 3}, {"min_iter": 3, "eta": 3}),
        ({"max_iter": 27, "s": 2, "eta": 3, "strict": True}, {"min_iter": 3, "eta": 3}),
    ],
)
def test_hyperband(rule, expected):
    content = BAYES | {"metric": {"name": "m"}, "early_terminate": {"type": "hyperband", **rule}}
    assert sweep_file.parse(content, Path("x.yaml")).early_terminate == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("just text", "not a W&B sweep file"),
        ({"model": {}}, "not a W&B sweep file"),
        (GRID | {"method": "genetic"}, "method: 'genetic' is not one of grid, random, bayes"),
        (GRID | {"metod": "grid"}, "metod: unknown key; did you mean 'method'"),
        (GRID | {"parameters": {}}, "parameters: a mapping"),
        (GRID | {"command": "symbreak fit"}, "command: a list of words"),
        ({"method": "grid", "parameters": {"x": {"value": 1}}}, "program: needed"),
        (BAYES, "metric: needed by method bayes"),
        (GRID | {"metric": {"goal": "minimize"}}, r"metric\.name"),
        (GRID | {"metric": {"name": "m", "goal": "min"}}, r"metric\.goal: 'min' is not one of minimize, maximize"),
        (GRID | {"metric": {"name": "m", "aim": 1}}, r"metric\.aim: unknown key"),
        (GRID | {"metric": {"name": "m", "target": "high"}}, r"metric\.target: a number is needed"),
        (GRID | {"run_cap": 0}, "run_cap: a whole number of at least 1"),
        (BAYES | {"metric": {"name": "m"}, "early_terminate": {"type": "median"}}, "early_terminate.type: hyperband"),
        (BAYES | {"metric": {"name": "m"}, "early_terminate": {"type": "hyperband"}}, "min_iter, or max_iter and s"),
    ],
)
def test_wrong_sweep_file_is_one_line_that_names_file_and_key(content, message, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message) as error:
        sweep_file.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("a: [", "not a YAML file"), (b"\xff", "not a")])
def test_unreadable_file(text, message, tmp_path):
    path = tmp_path / "wrong.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        sweep_file.load(path)


def test_labels_tell_arms_apart():
    grid = [
        {"config": f"arms/{arm}.yaml", "a.seed": 0, "b.seed": seed, "c": scale, "m": kind}
        for arm in ("zero", "he")
        for seed in (0, 1)
        for scale in (1e-3,)
        for kind in ("lib.Net", "0.5")
    ]
    keys = points.varying(grid)
    assert keys == ["config", "b.seed", "m"]
    assert points.label(grid[0], keys) == "zero, seed=0, m=Net"
    assert points.label(grid[-1], keys) == "he, seed=1, m=0.5"
    assert points.label(grid[0], ["a.seed", "b.seed"]) == "a.seed=0, b.seed=0"
    assert points.label(grid[0], []) == "run"
    assert points.label({"config": "{rounding_noise: {ulps: 1}}"}, ["config"]) == "ulps=1"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{x: {value: 2026-01-01}}", r"parameters\.x: 2026-01-01 is a date to YAML; write it in quotes"),
        ("{1: {value: 2}}", r"parameters\.1: a name is text; write 1 in quotes"),
        ("{x: {values: [1, 2], probabilities: half}}", r"parameters\.x\.probabilities: a list of numbers is needed"),
        ("{x: {value: 1}, x: {value: 2}}", r"x: given twice"),
        (f"{{{', '.join(f'p{n}: {{values: {list(range(12))}}}' for n in range(8))}}}", "a grid of 429,981,696 points"),
    ],
)
def test_what_yaml_makes_of_a_file_is_checked(tmp_path, parameters, message):
    path = tmp_path / "a.yaml"
    path.write_text(f"method: {'random' if 'prob' in parameters else 'grid'}\nprogram: p\nparameters: {parameters}\n")
    with pytest.raises(UsageError, match=message) as error:
        sweep_file.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
