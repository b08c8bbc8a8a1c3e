import pytest

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import shipped
from symbreak.sweeps.run.arguments import PLAIN, SECTIONS, prepare
from symbreak.sweeps.run.parser import resolve


def test_the_sections_are_those_of_the_parser():
    sections = {key.partition(".")[0] for key in resolve(["fit"])}
    assert sections <= {*SECTIONS, *PLAIN}
    assert set(SECTIONS) <= sections


def test_a_command_line_as_the_parser_takes_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    digits = str(shipped("sweeps/configs/digits.yaml"))
    words = [
        "fit",
        "-c",
        "digits",
        "--config=sweeps/configs/digits.yaml",
        "--run.dir",
        "a-b",
        "--rounding-noise.ulps=-1",
    ]
    assert prepare(words) == [
        *("fit", "--config", digits, f"--config={digits}"),
        *("--run.dir", "a-b", "--rounding_noise.ulps=-1"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trainr.max_steps=3"], "unknown key 'trainr.max_steps'; did you mean 'trainer.max_steps'"),
        (["--config", "{a: 1, a: 2}"], "'a' is given twice"),
        (["--config=own.yaml"], "own.yaml: unknown key 'modle'; did you mean 'model'"),
    ],
)
def test_mistakes_are_named(words, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("modle: {}")
    with pytest.raises(UsageError) as caught:
        prepare(["fit", *words])
    assert expected in str(caught.value)
