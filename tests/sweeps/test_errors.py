import resource
from typing import Any

import pytest

from symbreak.sweeps import pages
from symbreak.sweeps.errors import UsageError, condensed, explain, nearest, one_line, refusal_in

KEYS = ["model.init_args.depth", "model.init_args.widen_factor", "determinism.mode", "seed_everything"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.init_args.widen_factr", "model.init_args.widen_factor"),
        ("model.widen_factor", "model.init_args.widen_factor"),
        ("noise.mode", "determinism.mode"),
    ],
)
def test_the_nearest_key_is_suggested(name, found):
    assert nearest(name, KEYS) == f"; did you mean {found!r}?"


def test_nothing_near_suggests_nothing():
    assert nearest("zzz", KEYS) == ""


def test_nested_messages_become_one_line():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'Base'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'ConstNet':
        Parser key "init":
          Expected a typing.Literal['zero', 'he']. Got value: foo
    - Expected a <class 'NoneType'>
  Given value type: <class 'NestedArg'>"""
    assert explain(message) == "model.init_args.init: 'foo' is not allowed; allowed: zero, he"


def test_other_messages_keep_what_they_say():
    assert explain('Parser key "seed":\n  Expected an int. Got value: x') == "seed: Expected an int. Got value: x"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Parser key \"optimizer\":\n  Errors:\n    - Problem with given class_path 'torch.optim.SGD':\n"
            '        Parser key "lr":\n          - Expected a path but abc either not accessible or invalid\n'
            "          Subtypes: [<class 'float'>, <class 'torch.Tensor'>]\n          Errors:\n"
            "            - Expected a <class 'float'>\n            - Expected a dot import path string: abc\n"
            "          Given value: abc\n    - Expected a <class 'NoneType'>",
            "optimizer.init_args.lr: 'abc' is not allowed; allowed: a number",
        ),
        ("Parser key \"a\":\n  Expected a <class 'tuple'>. Got value: 3", "a: '3' is not allowed; allowed: a list"),
        (
            'Parser key "model":\n  Errors:\n    - Expected a dot import path string: Foo\n  Given value: Foo',
            "model: 'Foo' is neither a known class nor an import path",
        ),
        ("unrecognized arguments: foo", "'foo' is no option: every option begins with --"),
    ],
)
def test_types_are_named_in_plain_words(message, expected):
    assert explain(message) == expected


def raised_by(statement, **names) -> Any:
    """Return the error that a statement of this package raises."""
    try:
        exec(compile(statement, "<check>", "exec"), {"__name__": "symbreak.check", **names})
    except Exception as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


def ours(error):
    return raised_by("raise error", error=error)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (UsageError("no\nsuch"), "no such", 2),
        (ours(ValueError("depth must be 7")), "depth must be 7", 2),
        (raised_by("int('x')"), "internal error: ValueError: invalid literal for int() with base 10: 'x' (set", 1),
        (KeyError("x"), "internal error: KeyError: 'x' (set SYMBREAK_TRACEBACK=1 to see where)", 1),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied", 2),
        (OSError("cannot identify image file '/a.png'"), "cannot identify image file '/a.png'", 2),
        (MemoryError(), "out of memory: MemoryError", 2),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory. Tried", 2),
    ],
)
def test_bad_input_is_told_from_internal_errors(error, said, code):
    line, exit_code = one_line(error)
    assert line.startswith(said)
    assert exit_code == code


def test_an_error_in_a_worker_process_is_what_the_worker_raised():
    message = (
        "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nOSError: bad"
    )
    assert condensed(message) == "bad"
    assert condensed("x" * 5000).endswith("x ...")


def test_the_check_in_a_chain_of_causes_is_what_counts():
    outer = RuntimeError("outer")
    outer.__cause__ = check = ours(ValueError("check"))
    check.__cause__ = ImportError("inner")
    assert refusal_in(outer) is check
    check.__traceback__ = None
    assert str(refusal_in(outer)) == "inner"


def test_a_page_that_does_not_fit_is_named_and_leaves_no_half_file(tmp_path):
    page = tmp_path / "report.html"
    pages.write(page, "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            pages.write(page, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert one_line(caught.value)[0] == f"{page}: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert page.read_text() == "whole"
