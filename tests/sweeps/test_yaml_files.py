import pytest

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.yaml_files import read_mapping


def test_a_mapping_is_read_from_yaml_and_json(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeffa: {b: [1, x]}\nc: &anchor {d: 1}\ne: *anchor\n")
    assert read_mapping(tmp_path / "a.yaml") == {"a": {"b": [1, "x"]}, "c": {"d": 1}, "e": {"d": 1}}
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_mapping(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: 1\nb: 2\na: 3\n", "'a' is given twice, in lines 1 and 3"),
        (b"m:\n  i: {d: 1}\n  i: {d: 2}\n", "'m.i' is given twice, in lines 2 and 3"),
        (b"l: [{x: 1, x: 2}]", "'l.x' is given twice"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (bytes(range(256)), "not a text file in UTF-8"),
        ("caf\u00e9: 1".encode("latin1"), "not a text file in UTF-8"),
        (b"a: [", "not YAML"),
        (b"a: \x00", "not YAML"),
        (b"a: !!python/object/apply:os.system ['x']", "not YAML"),
        (b"? [a]\n: 1\n? {b: 1}\n: 2", "not YAML"),
        (b"a: 2001-99-99", "not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"- a\n", "expected a mapping of keys to values, found a list"),
        (b"", "expected a mapping of keys to values, found nothing"),
        (b"a: &x [*x]\nb: 1\nb: 2", "'b' is given twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path, content, expected):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_mapping(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_mapping(tmp_path)
