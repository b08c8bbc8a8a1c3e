import os
from pathlib import Path

import pytest

from symbreak.sweeps import pages
from symbreak.sweeps.cli import main
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output, config_file, shipped, shipped_configs


def test_shipped_configs_are_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = "sweeps/configs/digits.yaml"
    assert shipped(name).is_file()
    assert str(shipped("sweeps/nothing.yaml")) == "sweeps/nothing.yaml"
    assert config_file(name) == config_file("digits") == shipped(name)
    assert config_file("arms/he").name == "he.yaml"
    assert {"digits", "cifar10", "arms/he", "options/none"} <= shipped_configs().keys()


def test_a_file_of_the_users_own_comes_before_a_shipped_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("{}")
    assert str(config_file("digits")) == "digits"


@pytest.mark.parametrize(("name", "hint"), [("digts", "did you mean 'digits'"), ("own.yaml", "shipped are arms/he, ")])
def test_an_unknown_config_names_the_shipped_ones(name, hint):
    with pytest.raises(UsageError, match=f"config '{name}' is neither a file.*{hint}"):
        config_file(name)


@pytest.fixture
def bad_outputs(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    return {
        tmp_path / "folder": "it is a folder",
        tmp_path / "file" / "x.html": f"{tmp_path / 'file'} is a file, not a folder",
        Path("/dev/null"): "it is no regular file",
        Path("/proc/x.html"): "/proc takes no files",
    }


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc is a folder of Linux")
def test_an_output_that_cannot_be_written_is_named_as_given(bad_outputs):
    for path, reason in bad_outputs.items():
        for check in (check_output, lambda path: pages.write(path, "text")):
            with pytest.raises(UsageError, match=f"^{path} cannot be written: {reason}"):
                check(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_write_protected_folder_or_file_is_refused(tmp_path):
    (tmp_path / "page.html").write_text("old")
    for protected, path in ((tmp_path / "page.html", tmp_path / "page.html"), (tmp_path, tmp_path / "new" / "x.html")):
        protected.chmod(0o500)
        with pytest.raises(UsageError, match=f"^{path} cannot be written: "):
            check_output(path)


def test_a_check_of_outputs_creates_and_changes_nothing(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    check_output(page, None, tmp_path / "new" / "deeper" / "x.json")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert page.read_text() == "old"


@pytest.mark.parametrize(
    "command",
    [
        ["audit", "--output"],
        ["compare", "nowhere", "elsewhere", "--output"],
        ["compare", "nowhere", "elsewhere", "--json"],
        ["inspect", "torchvision.models.resnet18", "--output"],
        ["report", "nowhere", "--output"],
        ["report", "nowhere", "--csv"],
        ["trace", "--config=nowhere", "--output"],
        ["trace", "--config=nowhere", "--save"],
        ["record", "nowhere", "--output"],
    ],
)
def test_a_command_checks_its_output_before_its_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main([*command, "file/x.csv"]) == 2
    assert f"file/x.csv cannot be written: {tmp_path / 'file'} is a file" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "words",
    [
        ["report", ""],
        ["record", ""],
        ["inspect", ""],
        ["compare", "a", ""],
        ["fit", "--config="],
        ["fit", "--ckpt_path="],
        ["compare", "a", "b", "--output=x", "--json=x"],
    ],
    ids=" ".join,
)
def test_an_empty_name_and_one_name_for_two_files_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert ("named for two files" if "--json=x" in words else "empty") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["audit", "trace"])
def test_a_json_file_does_not_take_the_name_of_its_page(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--output", "found.html"]) == 2
    assert "found.html: expected the name of a JSON file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
