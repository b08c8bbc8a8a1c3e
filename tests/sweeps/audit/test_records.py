import json
from pathlib import Path
from typing import Any

import pytest

from symbreak.sweeps.audit.cases import Finding
from symbreak.sweeps.audit.records import is_audit, read, write
from symbreak.sweeps.report.command import report
from symbreak.sweeps.report.figures.audit import matrices

PROVENANCE = {"git": {"commit": "abc123"}, "cuda": None}


def finding(operation="conv2d forward", precision: Any = "float32", repeatable: Any = True, **more: Any) -> Finding:
    return Finding(operation, precision, **({"repeatable": repeatable, "symmetric": True} | more))


def heat(figure) -> Any:
    return figure.plot.data[0]


def test_what_is_written_is_read(tmp_path):
    findings = [finding(), finding("all-reduce", world_size=3, symmetric=False), finding("linear", repeatable=None)]
    write(tmp_path / "new" / "audit.json", PROVENANCE, findings)
    provenance, frame = read(tmp_path / "new" / "audit.json")
    assert provenance == PROVENANCE
    assert frame["operation"].tolist() == ["conv2d forward", "all-reduce", "linear"]
    assert frame["world_size"].tolist() == [1, 3, 1]
    assert frame["repeatable"].tolist() == [True, True, None]
    assert is_audit(tmp_path / "new" / "audit.json")


def test_the_shipped_record_is_one():
    provenance, frame = read(Path("sweeps/results/audit_cpu.json"))
    assert provenance["audited"] == "cpu"
    assert len(matrices(frame)) == 3


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '[{"a": 1}]', "3", "null", '{"provenance": {}, "columns": ["a"], "rows": [[1]]}', "[" * 100_000],
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"audit\.json: no file of `symbreak audit`"):
        read(path)


def test_one_matrix_per_mode_with_what_no_mode_touches_in_each(tmp_path):
    findings = [finding(mode="strict"), finding(mode="cudnn", repeatable=False), finding("all-reduce", world_size=3)]
    findings.append(finding("linear", "float16", None, symmetric=None, mode="strict", status="unsupported"))
    write(tmp_path / "audit.json", {}, findings)
    strict, cudnn = matrices(read(tmp_path / "audit.json")[1])
    assert (strict.key, cudnn.key) == ("audit-strict", "audit-cudnn")
    assert list(heat(strict).y) == ["conv2d forward", "all-reduce, 3 ranks", "linear"]
    assert heat(cudnn).z[:, 0].tolist() == [2, 3]


def test_an_audit_makes_a_report_of_its_own(tmp_path):
    path = tmp_path / "audit.json"
    write(path, PROVENANCE, [finding("</script><b>")])
    text = report([str(path)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Which operation breaks symmetry" in text
    assert "</script><b>" not in text
    assert "<td>audit.json: code: commit</td><td>abc123</td>" in text
    assert "audit.json: cuda" not in text
    assert json.loads(path.read_text())["rows"]
