import pytest

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import config_file, shipped, shipped_configs


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
