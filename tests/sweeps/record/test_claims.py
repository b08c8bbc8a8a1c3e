import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.record.claims import FORMAT, answer, evaluate, read_claims, render, write_readme

RESULTS = Path(__file__).parents[3] / "sweeps" / "results"

RUNS = """run,arm,status,model.init_args.init,model.init_args.noise_scale,test/accuracy,symmetry/escape_step
1,a|b,finished,zero,0.001,0.9,40
2,a|b,finished,zero,0.001,0.8,60
3,zero,finished,zero,0,0.3,
4,he,finished,he,0,0.95,0
"""
WHOLE = "claims: [{question: a, answer: b, record: arms, command: d, %s}]\n"
CLAIM = {
    "question": "Is it | true?",
    "answer": "Noise reached {noise:.1%} ± {spread:.1%} (n = {n:d}), none {none:.0%}, and {escaped:d} escaped.",
    "record": "arms",
    "numbers": {
        "noise": {"mean": "test/accuracy", "where": {"noise_scale": "1e-3"}},
        "spread": {"std": "test/accuracy", "where": {"noise_scale": 1e-3}},
        "n": {"count": "test/accuracy", "where": {"init": ["zero"], "noise_scale": 0.001}},
        "none": {"mean": "test/accuracy", "where": {"init": "zero", "noise_scale": 0}},
        "escaped": {"count": "symmetry/escape_step", "where": {"init": "zero"}},
    },
    "command": "symbreak sweep arms",
}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "runs.csv").write_text(RUNS)
    (tmp_path / "arms" / "provenance.json").write_text("{}")
    return tmp_path


def test_the_numbers_of_a_sentence_come_from_the_table(results):
    assert answer(CLAIM, results) == "Noise reached 85.0% ± 7.1% (n = 2), none 30%, and 2 escaped."
    assert answer(CLAIM | {"record": "other"}, results) is None
    never = {"mean": "symmetry/escape_step", "where": {"init": "zero", "noise_scale": 0}}
    assert answer(CLAIM | {"answer": "At {step:d}.", "numbers": {"step": never}}, results) == "At unknown."
    least = {"min": "symmetry/escape_step", "zero": "the start"}
    assert answer(CLAIM | {"answer": "From {step:d}.", "numbers": {"step": least}}, results) == "From the start."


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ({"mean": "test/acuracy"}, "did you mean 'test/accuracy'"),
        ({"mean": "test/accuracy", "where": {"init": "xavier"}}, "no row with"),
        ({"mean": "test/accuracy", "where": {"colour": 1}}, "'colour' is not one column"),
        ({"mean": "test/accuracy", "table": "../secret"}, "no table '../secret'; there are runs"),
        ({"mean": "test/accuracy", "max": "test/accuracy"}, "expected one of mean, std"),
        ({"__import__('os')": "test/accuracy"}, "expected one of mean, std"),
        ("mean(runs)", "expected one of mean, std"),
        ({"mean": "test/accuracy", "where": [1]}, "where: expected a mapping of columns to values, not [1]"),
        ({"mean": "test/accuracy", "where": "zero"}, "where: expected a mapping of columns to values, not 'zero'"),
        ({"mean": "test/accuracy", "where": {"init": {"is": 1}}}, "init: expected a value, a list or {not: VALUE}"),
        ({"ratio": "symmetry/escape_step"}, "ratio: the smallest 'symmetry/escape_step' is 0; all values must differ"),
        ({"mean": "test/accuracy", "table": ["runs"]}, "no table \"['runs']\"; there are runs"),
    ],
)
def test_an_expression_that_cannot_be_evaluated_is_named(results, expression, words):
    with pytest.raises(ValueError, match=r"^arms: accuracy: ") as error:
        evaluate(expression, results / "arms", "accuracy")
    assert words in str(error.value)


def test_a_number_that_is_not_defined_or_has_no_format_of_a_number_is_refused(results):
    with pytest.raises(ValueError, match="is no number of the claim"):
        answer(CLAIM | {"answer": "{nois}"}, results)
    with pytest.raises(ValueError, match="no format of a number"):
        answer(CLAIM | {"answer": "{noise:>99}"}, results)
    with pytest.raises(ValueError, match=r"^arms: noise: '\.1d' is no format of a number, such as"):
        answer(CLAIM | {"answer": "{noise:.1d}"}, results)
    with pytest.raises(ValueError, match=r"^arms: answer: '\{noise:\.1%' is neither \{name\} nor"):
        answer(CLAIM | {"answer": "Up to {noise:.1% of {n:d}."}, results)
    with pytest.raises(ValueError, match="is no number of the claim"):
        answer(CLAIM | {"answer": "{nois}", "numbers": {1: {}, "noise": {}}}, results)


@settings(deadline=None)
@given(st.from_regex(FORMAT, fullmatch=True))
def test_every_format_that_is_allowed_formats_a_number(form):
    assert format(12 if form.endswith("d") else 12.5, form)


TABLE = (RESULTS / "quickstart" / "runs.csv").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "runs.csv is no CSV table in UTF-8: No columns"),
        (TABLE.replace(b"zero_noise", b"z\xe9ro"), "runs.csv is no CSV table in UTF-8: 'utf-8' codec"),
        (TABLE[:-1] + b",1,2,3\n", "runs.csv is no CSV table in UTF-8: Error tokenizing"),
        (TABLE.splitlines(keepends=True)[0], "the table has no row"),
    ],
)
def test_a_damaged_table_is_named(results, content, words):
    (results / "arms" / "runs.csv").write_bytes(content)
    with pytest.raises(UsageError, match=r"^arms: accuracy: ") as error:
        evaluate({"mean": "test/accuracy"}, results / "arms", "accuracy")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_functions(results):
    names = ("median", "min", "max", "ratio")
    found = {name: evaluate({name: "test/accuracy"}, results / "arms", "x") for name in names}
    assert found == pytest.approx({"median": 0.85, "min": 0.3, "max": 0.95, "ratio": 0.95 / 0.3})
    escaped = {"min": "test/accuracy", "where": {"symmetry/escape_step": {"not": None}}}
    assert evaluate(escaped, results / "arms", "x") == 0.8
    assert evaluate(escaped | {"where": {"symmetry/escape_step": None}}, results / "arms", "x") == 0.3
    only = {"init": "zero", "noise_scale": 0}
    assert math.isnan(evaluate({"mean": "symmetry/escape_step", "where": only}, results / "arms", "x"))


def test_the_readme_is_one_table_of_claims_and_the_records_without_one(results):
    (results / "claims.yaml").write_text(
        "claims:\n- {question: Is it?, answer: 'Reached {a:.0%}.', record: arms, command: symbreak sweep arms,\n"
        "   numbers: {a: {max: test/accuracy}}, figure: growth, cost: 1 minute}\n"
        "- {question: Later?, answer: 'Perhaps.', record: missing, command: symbreak sweep missing, cost: null}\n"
    )
    with pytest.raises(ValueError, match=r"^arms: figure: no picture growth\.png"):
        render(results)
    (results / "arms" / "growth.png").touch()
    (results / "alone").mkdir()
    (results / "alone" / "provenance.json").write_text("{}")
    text = write_readme(results).read_text()
    assert "| Is it? | Reached 95%. ([record](arms/README.md)) | [growth](arms/growth.png) |" in text
    assert "| Later? | Not recorded yet. |  | `symbreak sweep missing` |  |" in text
    assert text.endswith("- [alone](alone/README.md)\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("claims: 3\n", "expected a list of mappings"),
        ("claims: [{question: a, answer: b, record: c, command: d, figur: e}]\n", "figur: unknown key"),
        ("claims: [{question: a, answer: b, record: c}]\n", "claim 1: command: a text is needed"),
        ("claims: [a]\n", "expected a list of mappings"),
        (WHOLE % "numbers: [1]", "claim 1: numbers: a mapping of names to expressions is needed"),
        (WHOLE % "figure: [growth]", "claim 1: figure: a text is needed"),
        (WHOLE % "cost: 5", "claim 1: cost: a text is needed"),
        (WHOLE % "readme: 1", "claim 1: readme: true or false is needed"),
    ],
)
def test_a_file_of_claims_that_is_wrong_is_named(results, content, words):
    (results / "claims.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"claims\.yaml") as error:
        render(results)
    assert words in str(error.value)


def test_the_results_of_the_repository_say_what_their_tables_say():
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == render(RESULTS)


def test_sentences_that_stand_in_the_readme_say_what_the_tables_say():
    text = " ".join((RESULTS.parents[1] / "README.md").read_text(encoding="utf-8").split())
    shown = [claim for claim in read_claims(RESULTS) if claim.get("readme")]
    assert [claim["question"] for claim in shown if (answer(claim, RESULTS) or "not recorded") not in text] == []
