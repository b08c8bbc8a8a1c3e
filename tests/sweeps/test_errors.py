import pytest

from symbreak.sweeps.errors import explain, nearest

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
