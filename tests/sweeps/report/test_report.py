import importlib.util
import re
import time
from typing import Any

import plotly.io
import pytest
from tests.sweeps.report.example_runs import config_of, write_run
from tests.sweeps.report.recorded import recorded

from symbreak.sweeps.report import writing as module
from symbreak.sweeps.report.command import report
from symbreak.sweeps.report.figures import choose


def test_writes_one_page_and_the_tables(sweep_folder, tmp_path):
    page = report([str(sweep_folder)], tmp_path / "deep" / "report.html", csv=tmp_path / "runs.csv")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<title>quickstart</title>" in text
    assert "10 runs in 5 arms · 10 finished" in text
    assert page.stat().st_size < 7e6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "runs-history.csv", "runs.csv"]
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_a_single_run_is_enough(tmp_path):
    folder = write_run(tmp_path / "only", config_of(noise=1e-3), 100)
    text = report([str(folder)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 runs in 1 arms" not in text
    assert "1 run in 1 arm" in text


def test_runs_that_cannot_be_shown_are_listed(tmp_path):
    write_run(tmp_path / "runs" / "bad", config_of(), 50, status="failed", error="ValueError: <script>no</script>")
    text = report([str(tmp_path / "runs")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the run failed" in text
    assert "ValueError: &lt;script&gt;no&lt;/script&gt;" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"csv": "table.txt"}, r"ends in \.csv"),
        ({"parquet": "table.csv"}, r"ends in \.parquet"),
        ({"interval": 0}, "interval must be positive"),
    ],
)
def test_bad_options_are_named_before_any_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        report([str(tmp_path / "nowhere")], tmp_path / "report.html", **options)


def test_bad_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match="no runs in"):
        report([str(tmp_path)], tmp_path / "report.html")
    with pytest.raises(ValueError, match="nowhere"):
        report([str(tmp_path / "nowhere")], tmp_path / "report.html")
    with pytest.raises(ValueError, match="at least one"):
        report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_pictures_need_kaleido(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="kaleido"):
        report([str(tmp_path)], tmp_path / "report.html", png=tmp_path / "png")


@pytest.mark.parametrize(("name", "rows"), [("world_size", 12), ("quickstart", 1)])
def test_a_picture_has_room_for_its_legend(tmp_path, monkeypatch, name, rows):
    drawn: dict[str, Any] = {}

    def write(plots, paths, height, **size):
        drawn.update({path.stem: plot.layout for plot, path in zip(plots, paths, strict=True)})
        assert height == [layout.height for layout in drawn.values()]

    monkeypatch.setattr(plotly.io, "write_images", write)
    figures = {figure.key: figure for figure in choose(recorded(name))}
    module.save_pictures([figures["loss"], figures["steps-to-separation"]], tmp_path)
    added = drawn["loss"].height - figures["loss"].height
    assert added == drawn["loss"].margin.b - module.AXIS == rows * module.ROW
    assert (drawn["loss"].legend.yref, drawn["loss"].legend.maxheight) == ("container", 1)
    assert drawn["steps-to-separation"].height == figures["steps-to-separation"].height  # it has no legend


def test_watching_rewrites_the_page_until_interrupted(tmp_path, monkeypatch, capsys):
    runs, output, seen = tmp_path / "runs", tmp_path / "report.html", []
    write_run(runs / "1", config_of(0), 50, status="running")

    def later(seconds):
        seen.append((seconds, output.read_text(encoding="utf-8")))
        if len(seen) == 2:
            raise KeyboardInterrupt
        write_run(runs / "2", config_of(1), 50)

    monkeypatch.setattr(time, "sleep", later)
    monkeypatch.setattr(module, "choose", lambda table: [])
    report([str(runs)], output, watch=True, interval=3.0)
    assert [seconds for seconds, _ in seen] == [3.0, 3.0]
    facts = [re.findall(r'class="facts">([^<]*)', text)[0] for _, text in seen]
    assert facts == ["1 run in 1 arm · 1 running", "2 runs in 1 arm · 1 running · 1 finished"]
    assert all('data-refresh="3"' in text for _, text in seen)
    assert 'data-refresh="0"' in output.read_text(encoding="utf-8")
    assert "Ctrl-C" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("before")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("symbreak.sweeps.pages.os.replace", fail)
    write_run(tmp_path / "run", config_of(), 50)
    with pytest.raises(OSError, match="disk full"):
        report([str(tmp_path / "run")], page)
    assert page.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
