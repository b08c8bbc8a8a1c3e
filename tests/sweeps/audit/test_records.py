import json
from typing import Any

import pytest

from symbreak.sweeps.audit.records import audit_figures, is_audit, read_audit
from symbreak.sweeps.report.command import report


def record(
    operation="conv2d forward", precision="float32", repeatable: Any = True, symmetric: Any = True, **more: Any
) -> dict[str, Any]:
    return {"operation": operation, "precision": precision, "repeatable": repeatable, "symmetric": symmetric} | more


def heat(figure) -> Any:
    return figure.plot.data[0]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_reads_a_list_or_a_mapping_that_holds_one(tmp_path):
    rows = [record(), record("all-reduce", world_size=3, symmetric=False), {"something": "else"}]
    columns = list(rows[1])
    lists = [[row.get(name, 1) for name in columns] for row in rows[:2]]
    for content in (rows, {"records": rows, "provenance": {}}, {"columns": columns, "rows": lists}):
        frame = read_audit(write(tmp_path / "audit.json", content))
        assert frame["operation"].tolist() == ["conv2d forward", "all-reduce, 3 ranks"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '[{"a": 1}]', "3", "null"])
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"audit\.json"):
        read_audit(path)


def test_one_matrix_per_mode_with_what_no_mode_touches_in_each(tmp_path):
    rows = [record(mode="strict"), record(mode="cudnn", repeatable=False), record("all-reduce", mode="any")]
    rows.append(record("linear", "float16", None, None, mode="strict", status="unsupported"))
    strict, cudnn = audit_figures(write(tmp_path / "audit.json", rows))
    assert (strict.key, cudnn.key) == ("audit-strict", "audit-cudnn")
    assert list(heat(strict).y) == ["conv2d forward", "linear", "all-reduce"]
    assert heat(cudnn).z[:, 0].tolist() == [2, 3]


def test_an_audit_makes_a_report_of_its_own(tmp_path):
    content = {"provenance": {"git": {"commit": "abc123"}, "cuda": None}, "records": [record("</script><b>")]}
    path = write(tmp_path / "audit.json", content)
    assert is_audit(path)
    text = report([str(path)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Which operation breaks symmetry" in text
    assert "</script><b>" not in text
    assert "<td>audit.json: git.commit</td><td>abc123</td>" in text
    assert "audit.json: cuda" not in text
