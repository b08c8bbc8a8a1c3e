from pathlib import Path

import pytest

from symbreak.callbacks import FeatureDiversity, SymmetryBreaking
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run import parser
from symbreak.sweeps.search import check, space, sweep_file

COMMAND = ["${env}", "symbreak", "fit", "--config", "sweeps/configs/digits.yaml", "${args}"]


def check_sweep(parameters, command=COMMAND, **content):
    content = {"method": "grid", "parameters": parameters, "command": command, **content}
    sweep = sweep_file.parse(content, Path("s.yaml"))
    check.check_points(sweep, space.covering(sweep.parameters), lambda function, *arguments: function(*arguments))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model.init_args.noise_scal": {"value": 1}}, r"noise_scal'; did you mean 'model\.init_args\.noise_scale'"),
        ({"determinism.mode": {"values": ["strict", "lax"]}}, "determinism.mode: 'lax' is not allowed; allowed: non"),
        ({"wandb.group": {"value": None}}, "wandb.group: None arrives as 'None'; .*args_json_file"),
        ({"optimizer.init_args.foreach": {"value": None}}, "foreach: .*args_json_file"),
    ],
)
def test_wrong_parameter_is_named(parameters, message):
    with pytest.raises(UsageError, match=message) as error:
        check_sweep(parameters)
    assert str(error.value).startswith("s.yaml: ")
    assert "\n" not in str(error.value)


def test_none_booleans_and_lists_survive_a_json_file():
    values = {
        "trainer.precision": {"values": [None, "bf16-mixed"]},
        "run.test": {"values": [False, True]},
        "symmetry_breaking.include": {"values": [[], ["blocks.*"]]},
        "model": {"parameters": {"init_args": {"parameters": {"noise_scale": {"value": 1.0e-7}}}}},
    }
    check_sweep(values, [*COMMAND[:-1], "--config", "${args_json_file}"])


@pytest.mark.parametrize("command", [COMMAND, [*COMMAND[:-1], "--config", "${args_json_file}"]], ids=["args", "json"])
def test_callbacks_given_by_class_are_parameters(command):
    monitors = [
        {"class_path": "LearningRateMonitor", "init_args": {"logging_interval": way}} for way in ("step", "epoch")
    ]
    check_sweep({"trainer.callbacks": {"values": [[], *([one] for one in monitors)]}}, command)


def test_a_list_of_other_classes_is_no_survival():
    value = [{"class_path": "LearningRateMonitor"}]
    check._check_survival(
        {"trainer.callbacks": value}, {"trainer.callbacks": [{"class_path": "a.LearningRateMonitor"}]}
    )
    with pytest.raises(UsageError, match=r"trainer\.callbacks: .* arrives as"):
        check._check_survival({"trainer.callbacks": value}, {"trainer.callbacks": [{"class_path": "a.Timer"}]})


@pytest.mark.parametrize("name", ["train/loss", "test/accuracy", "symmetry/escape_step", "symmetry/broken_step/stem"])
def test_logged_metric_is_accepted(name):
    check_sweep({"trainer.max_steps": {"value": 2}}, metric={"name": name})


@pytest.mark.parametrize("name", ["test/acuracy", "escape_step", "symmetry/escape_step/stem", "train/accuracy/stem"])
def test_metric_that_nothing_logs_is_refused(name):
    with pytest.raises(UsageError, match=rf"s\.yaml: metric\.name: nothing logs '{name}'"):
        check_sweep({"trainer.max_steps": {"value": 2}}, metric={"name": name})


def test_documented_keys_are_found():
    keys = check.logged_keys()
    for callback in (FeatureDiversity, SymmetryBreaking):
        documented = str(callback.__doc__).count("``" + callback.family)
        assert sum(key.startswith(f"{callback.family}/") for key in keys) == documented
    assert set(parser.CALLBACKS.values()) >= {FeatureDiversity, SymmetryBreaking}


def test_covering_points_hold_every_value_once():
    chosen = space.covering({"a": {"values": [0, 1, 2]}, "b": {"parameters": {"c": {"values": [1, 1.0, None]}}}})
    assert len(chosen) == 3
    assert {point["a"] for point in chosen} == {0, 1, 2}
    assert {str(point["b"]["c"]) for point in chosen} == {"1", "1.0", "None"}
