import importlib.util
import json
import re

import pytest
import wandb

from symbreak.callbacks import FeatureDiversity, SymmetryBreaking
from symbreak.sweeps.dashboard.command import STORY, dashboard, specification, story, workspace
from symbreak.sweeps.errors import UsageError

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed"
)


@pytest.fixture
def server(monkeypatch):
    """Let W&B's server answer with an exception."""

    def answer(error):
        def refuse(*args, **kwargs):
            raise error

        monkeypatch.setattr("wandb.Api", refuse)

    return answer


@pytest.fixture(autouse=True)
def _without_server(server):
    server(AssertionError("a server was asked"))


@needs_workspaces
def test_the_workspace_has_a_section_per_theme():
    made = specification(workspace("me", "project"))
    assert [section["name"] for section in made["sections"]] == [section.name for section in STORY]
    assert [section.name for section in STORY] == ["Accuracy", "Symmetry", "Diversity", "Ranks", "Throughput"]
    panels = [panel for section in made["sections"] for panel in section["panels"]]
    assert len(panels) == sum(len(section.panels) for section in STORY)
    assert all(panel["x"] == "trainer/global_step" for panel in panels)
    logarithmic = {panel["title"] for panel in panels if panel.get("log_y")}
    assert logarithmic == {"Feature asymmetry, largest of the hidden layers", "Feature asymmetry by layer"}


@needs_workspaces
def test_the_report_tells_how_to_read_every_section():
    made = specification(story("me", "project"))
    text = json.dumps(made)
    for section in STORY:
        assert section.text in text
        assert all(panel.key in text.replace("\\\\", "\\") for panel in section.panels)
    grids = [block["panels"] for block in made["blocks"] if "panels" in block]
    for panels in grids:
        corners = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels]
        assert len(set(corners)) == len(corners)


def test_panels_ask_for_keys_that_the_callbacks_document():
    documented = f"{SymmetryBreaking.__doc__} {FeatureDiversity.__doc__}"
    keys = [panel.key for section in STORY[1:3] for panel in section.panels]
    assert keys
    for key in keys:
        assert re.search(rf"``{re.escape(key.removesuffix('/.*'))}(/<layer>)?``", documented), key


@needs_workspaces
def test_a_dry_run_prints_both_and_sends_nothing(capsys):
    dashboard("me/project", dry_run=True)
    made, told = json.loads(capsys.readouterr().out)
    assert (made["entity"], made["project"]) == ("me", "project")
    assert told["title"].startswith("symbreak")


@needs_workspaces
@pytest.mark.parametrize("error", [wandb.Error("No API key configured"), Exception("not logged in")])
def test_what_the_server_refuses_is_said_in_one_line(server, error):
    server(error)
    with pytest.raises(UsageError, match=rf"^W&B refused the workspace: {error}$"):
        dashboard("me/project")


@needs_workspaces
@pytest.mark.parametrize("error", [AssertionError("a mistake"), ValueError("a mistake"), KeyError("a mistake")])
def test_a_mistake_is_no_refusal(server, error):
    server(error)
    with pytest.raises(type(error), match="a mistake") as raised:
        dashboard("me/project")
    assert not isinstance(raised.value, UsageError)


@pytest.mark.parametrize("target", ["", "project", "a/b/c", "/b", "a/", "a b/c"])
def test_a_malformed_target_is_refused(target):
    with pytest.raises(ValueError, match="ENTITY/PROJECT"):
        dashboard(target)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"symbreak\[dashboard\]"):
        dashboard("me/project")
