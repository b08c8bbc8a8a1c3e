import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from symbreak.sweeps import cli
from symbreak.sweeps.engine.study import Study
from symbreak.sweeps.paths import shipped_sweep
from symbreak.sweeps.record import command, pictures, writing
from symbreak.sweeps.record.contents import command_of, history_frame
from symbreak.sweeps.report.figures.style import PALETTE, Figure, blank
from symbreak.sweeps.report.sentences import sentences
from symbreak.sweeps.report.table import load_runs
from symbreak.sweeps.run.folder import STATE, SWEEP, read_json, write_json
from symbreak.sweeps.search import sweep_file


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(writing, "draw", lambda figures, folder, room: [])


@pytest.fixture(scope="module")
def table(real_runs):
    return load_runs([real_runs])


@pytest.fixture(scope="module")
def results(real_runs, tmp_path_factory):
    """Results with one record of the runs of a real sweep."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "draw", lambda figures, folder, room: [])
        assert cli.main(["record", str(real_runs), "-o", str(folder / "law")]) == 0
    return folder


def test_a_record_holds_every_run_and_its_outcome(results, table):
    runs = pd.read_csv(results / "law" / "runs.csv")
    assert list(runs["run"]) == list(table.runs["run"])
    assert runs["test/accuracy"].tolist() == pytest.approx(table.runs["test/accuracy"].tolist(), rel=1e-5, nan_ok=True)
    assert set(runs["model.init_args.noise_scale"]) == {0.0, 0.001, 0.01, 0.02, 0.03}
    assert not [column for column in runs if str(column).count("/") > 1]
    assert list(runs["run"][runs["seconds"].isna()]) == ["4-killed"]
    assert (runs["seconds"].dropna() >= 0).all()  # whole seconds: a run may take less than one
    assert runs["seconds"].max() > 0


def test_the_history_ends_where_the_runs_ended(results, table):
    history = pd.read_csv(results / "law" / "history.csv.gz")
    own = history[(history["run"] == "1-noise") & (history["key"] == "symmetry/max_feature_asymmetry")]
    logged = table.series("symmetry/max_feature_asymmetry")
    logged = logged[logged["run"] == list(table.runs["run"]).index("1-noise")]
    assert own["step"].tolist() == logged["step"].tolist()
    assert own["value"].tolist() == pytest.approx(logged["value"].tolist(), rel=1e-5)
    thinned = history_frame(table, points=5)
    counts = thinned.groupby(["run", "key"]).size()
    assert counts.max() == 5
    ends = thinned.groupby(["run", "key"])["step"].agg(["min", "max"])
    whole = history_frame(table, points=10**6).groupby(["run", "key"])["step"].agg(["min", "max"])
    pd.testing.assert_frame_equal(ends, whole)


def test_provenance_names_command_code_and_times(results, table):
    content = json.loads((results / "law" / "provenance.json").read_text())
    assert [shlex.split(call) for call in content["command"].split("; ")] == [meta["command"] for meta in table.meta]
    assert content["items"]["environment: torch"]
    assert content["settings"]["model.init_args.depth"] == 7
    assert "model.init_args.noise_scale" not in content["settings"]
    assert content["runs"]["finished"] == (table.runs["status"] == "finished").sum()
    assert [each["run"] for each in content["left_out"]] == ["5-failed"]


def test_the_command_of_one_run_is_its_own(real_runs, tmp_path):
    command.record([str(real_runs / "1-noise")], tmp_path / "law")
    expected = shlex.join(read_json(real_runs / "1-noise" / STATE)["command"])
    assert expected.startswith("symbreak fit --config=sweeps/configs/digits.yaml ")
    assert f"- command: `{expected}`\n" in (tmp_path / "law" / "README.md").read_text()


@pytest.mark.parametrize(
    ("path", "given", "older"),
    [
        (Path("my sweeps/noise.yaml"), "symbreak sweep 'my sweeps/noise.yaml'", None),
        (shipped_sweep("quickstart"), "symbreak sweep quickstart", "symbreak sweep quickstart"),
    ],
)
def test_the_command_of_a_sweep_names_its_file(real_runs, tmp_path, path, given, older):
    (tmp_path / "runs").mkdir()
    content = {"method": "grid", "program": "p", "parameters": {"x": {"values": [1]}}}
    study = Study(sweep_file.parse(content, path), tmp_path / "runs")
    folder, _ = study.begin(study.points[0])
    shutil.copytree(real_runs / "1-noise", folder, dirs_exist_ok=True)
    assert command_of(load_runs([tmp_path / "runs"])) == given
    kept = read_json(tmp_path / "runs" / SWEEP)
    write_json(tmp_path / "runs" / SWEEP, {key: value for key, value in kept.items() if key != "file"})
    own = shlex.join(read_json(folder / STATE)["command"])
    assert command_of(load_runs([tmp_path / "runs"])) == (older or own)


def test_the_readme_says_what_the_report_says(results, table):
    text = (results / "law" / "README.md").read_text()
    for sentence in sentences(table):
        assert sentence.text.split("(")[0].replace("_", "\\_") in text
    assert "Without a picture here" in text
    assert all(f"[`{path.name}`]" in text for path in (results / "law").iterdir() if path.suffix != ".md")


def test_an_existing_record_is_not_touched(results, real_runs, capsys):
    before = {path: path.read_bytes() for path in (results / "law").iterdir()}
    assert cli.main(["record", str(real_runs), "-o", str(results / "law")]) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (results / "law").iterdir()} == before


def test_a_superseded_record_moves_aside_with_its_reason(results, real_runs, tmp_path):
    for reason in ("first", "more seeds", "yet more"):
        command.record([str(real_runs)], tmp_path / "law", supersede=reason)
    moved = sorted((tmp_path / "superseded").iterdir())
    assert [(path / "superseded.md").read_text() for path in moved] == [
        "Superseded: more seeds\n",
        "Superseded: yet more\n",
    ]
    assert all((path / "runs.csv").is_file() for path in [*moved, tmp_path / "law"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["law", "superseded"]


def test_a_record_over_the_limit_is_refused_and_leaves_nothing(real_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LIMIT", 5000)
    with pytest.raises(ValueError, match=r"exceed 0\.005 MB"):
        command.record([str(real_runs)], tmp_path / "law")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_record_leaves_nothing_but_what_was_there(results, real_runs, tmp_path, monkeypatch, number):
    shutil.copytree(results / "law", tmp_path / "law")
    (tmp_path / ".law.mine").touch()
    before, handler = sorted(tmp_path.rglob("*")), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(writing, "draw", lambda figures, folder, room: os.kill(os.getpid(), number))
    assert cli.main(["record", str(real_runs), "-o", str(tmp_path / "law"), "--supersede", "again"]) == 130
    assert sorted(tmp_path.rglob("*")) == before
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_history_is_thinned_to_the_room_there_is(results, real_runs, tmp_path, monkeypatch):
    size = sum(path.stat().st_size for path in (results / "law").iterdir() if path.name != "history.csv.gz")
    monkeypatch.setattr(writing, "LIMIT", size + 40_000)
    command.record([str(real_runs)], tmp_path / "law")
    thinned, whole = (pd.read_csv(folder / "law" / "history.csv.gz") for folder in (tmp_path, results))
    assert len(thinned) < len(whole)
    assert set(thinned["key"]) == set(whole["key"])
    assert sum(path.stat().st_size for path in (tmp_path / "law").iterdir()) <= size + 40_000


def test_remarks_are_kept_and_shown(real_runs, tmp_path):
    (tmp_path / "remarks.md").write_text("Seen **twice**.\n")
    command.record([str(real_runs)], tmp_path / "law", findings=tmp_path / "remarks.md")
    assert (tmp_path / "law" / "findings.md").read_text() == "Seen **twice**.\n"
    assert "## Remarks\n\nSeen **twice**." in (tmp_path / "law" / "README.md").read_text()


def test_no_runs_and_no_remarks_are_errors_of_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["record", str(tmp_path / "empty"), "-o", str(tmp_path / "law")]) == 2
    assert cli.main(["record", str(tmp_path), "-o", str(tmp_path / "law"), "--findings", str(tmp_path / "x.md")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "no runs to record" in lines[0]
    assert "x.md: No such file" in lines[1]
    assert not (tmp_path / "law").exists()


def test_a_record_rewrites_the_readme_of_the_claims_beside_it_or_says_why_not(real_runs, tmp_path, capsys):
    claim = "claims: [{question: How?, answer: 'It is {a:.0f}.', record: law, command: x, numbers: {a: {max: %s}}}]\n"
    (tmp_path / "claims.yaml").write_text(claim % "step")
    command.record([str(real_runs)], tmp_path / "law")
    assert "| How? | It is 60." in (tmp_path / "README.md").read_text()
    (tmp_path / "claims.yaml").write_text(claim % "steq")
    command.record([str(real_runs)], tmp_path / "law", supersede="again")
    assert "README.md is not rewritten: law: a: 'steq' is not one column" in capsys.readouterr().err
    assert (tmp_path / "law" / "runs.csv").is_file()


def test_figures_of_claims_come_before_others(real_runs, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(writing, "draw", lambda figures, folder, room: asked.extend(figures) or figures[:1])
    command.record([str(real_runs)], tmp_path / "plain")
    last = asked[-1]
    claim = f"claims: [{{question: a, answer: b, record: law, command: c, figure: {last.key}}}]\n"
    (tmp_path / "claims.yaml").write_text(claim)
    asked.clear()
    command.record([str(real_runs)], tmp_path / "law")
    assert asked[0].key == last.key
    text = (tmp_path / "law" / "README.md").read_text()
    assert f"({last.key}.png)" in text
    assert last.title not in text.partition("Without a picture here")[2]


def test_pictures_keep_the_colour_of_every_line():
    image = Image.new("RGB", (400, 300), "white")
    colors = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in PALETTE]
    for row, color in enumerate(colors):
        for column in range(50):
            image.putpixel((column, 10 * row), color)
    shades = [(i % 250, 128, i // 250) for i in range(2000)]
    for i, shade in enumerate(shades):
        image.putpixel((200 + i % 200, 200 + i // 200), shade)
    small = pictures.with_palette(image).convert("RGB")
    assert [small.getpixel((5, 10 * row)) for row in range(len(colors))] == colors


def test_a_picture_is_drawn_if_it_fits(tmp_path):
    pytest.importorskip("kaleido")
    plot = blank("x", "y")
    plot.add_trace(go.Scatter(x=[0, 1], y=[0, 1]))
    figures = [Figure("first", "", "First", "", plot), Figure("second", "", "Second", "", plot)]
    drawn = pictures.draw(figures[:1], tmp_path, 10**6)
    if not drawn:
        pytest.skip("no browser to draw with")
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")
    assert pictures.draw(figures[1:], tmp_path, 100) == []
    assert not (tmp_path / "second.png").exists()
