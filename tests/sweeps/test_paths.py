from symbreak.sweeps.paths import shipped, with_shipped_configs


def test_shipped_configs_are_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = "sweeps/configs/digits.yaml"
    assert shipped(name).is_file()
    assert str(shipped("sweeps/nothing.yaml")) == "sweeps/nothing.yaml"
    expected = ["fit", f"--config={shipped(name)}", "--config", str(shipped(name)), "--config=own.yaml"]
    assert with_shipped_configs(["fit", f"--config={name}", "--config", name, "--config=own.yaml"]) == expected
