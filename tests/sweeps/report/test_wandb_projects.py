from types import SimpleNamespace

import numpy as np
import pytest
import wandb

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.report.wandb_projects import online_history, read_online, read_project
from symbreak.sweeps.run.record import Run, Skipped


def online(**changes):
    rows = [
        {"_step": 0, "_runtime": 1.0, "trainer/global_step": 0, "train/loss": 2.0, "note": "text"},
        {"_step": 1, "trainer/global_step": 0, "symmetry/max_feature_asymmetry": 0.0},
        {"_step": 2, "trainer/global_step": 10, "train/loss": 1.0},
    ]
    fields = {
        "name": "run",
        "url": "https://example.invalid/run",
        "state": "finished",
        "config": {"model": {"init_args": {"noise_scale": 0.1}}, "_wandb": {}},
        "summary": {"test/accuracy": 0.9, "_wandb": {}, "best": {"max": 1}},
        "scan_history": lambda: rows,
        "metadata": {"args": ["fit", "--x=1"]},
        "commit": "abc",
        "group": "arm",
    }
    return SimpleNamespace(**(fields | changes))


def test_an_online_run_looks_like_a_folder():
    run = read_online(online())
    assert isinstance(run, Run)
    assert run.config == {"model.init_args.noise_scale": 0.1}
    assert run.summary == {"test/accuracy": 0.9, "train/loss": 1.0, "symmetry/max_feature_asymmetry": 0.0}
    assert run.point == {"arm": "arm"}
    np.testing.assert_array_equal(run.history.index, [0, 10])
    np.testing.assert_array_equal(run.history.to_numpy(), [[2, 0], [1, np.nan]])


@pytest.mark.parametrize("changes", [{"state": "crashed"}, {"state": "failed"}, {"scan_history": lambda: []}])
def test_crashed_and_empty_runs_are_skipped(changes):
    assert isinstance(read_online(online(**changes)), Skipped)


def test_runs_without_lightnings_step_use_wandbs_own():
    assert online_history([{"_step": 3, "a": 1}, {"_step": 4, "a": 2}]).index.tolist() == [3, 4]
    assert online_history([{"a": 1}]).empty


def test_a_project_is_read_run_by_run_and_refusals_are_one_line(monkeypatch):
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(runs=lambda project: [online(name=project)]))
    (run,) = read_project("me/project")
    assert run.name == "me/project"

    def refuse():
        raise wandb.Error("No API key configured.")

    monkeypatch.setattr(wandb, "Api", refuse)
    with pytest.raises(ValueError, match="cannot read the W&B project me/project: No API key"):
        read_project("me/project")


def test_a_mistake_while_reading_is_no_refusal_of_the_server(monkeypatch):
    monkeypatch.setattr(
        wandb, "Api", lambda: SimpleNamespace(runs=lambda _: [online(scan_history=lambda: [float("x")])])
    )
    with pytest.raises(ValueError, match="could not convert") as raised:
        read_project("me/project")
    assert not isinstance(raised.value, UsageError)
