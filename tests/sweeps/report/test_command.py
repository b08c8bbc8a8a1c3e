import pytest

from symbreak.sweeps.cli import main


def test_report_takes_several_folders_and_short_options(sweep_folder, tmp_path, capsys):
    page = tmp_path / "out.html"
    runs = sorted(map(str, sweep_folder.iterdir()))[:2]
    assert main(["report", *runs, "-o", str(page)]) == 0
    assert "2 runs in" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(page)


def test_dashboard_prints_its_specification(capsys):
    pytest.importorskip("wandb_workspaces")
    assert main(["dashboard", "me/project", "--dry_run=true"]) == 0
    assert '"project": "project"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [["report"], ["report", "/no/such/folder"], ["report", "x", "--nonsense=1"], ["dashboard", "project"]]
)
def test_bad_input_is_one_line(args, capsys):
    assert main(args) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_describes_every_option(capsys):
    assert main(["report", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in text for name in ("output", "csv", "parquet", "png", "watch", "interval"))
    assert "Rewrite the page as runs progress" in text
