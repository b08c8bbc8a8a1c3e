import json
import re
import shutil
from dataclasses import replace

import pytest
from tests.sweeps.report.example_runs import config_of, write_run
from tests.sweeps.report.recorded import RESULTS, recorded

from symbreak.sweeps.report.figures.symmetry import growth
from symbreak.sweeps.report.grids import by_arm, by_run
from symbreak.sweeps.report.sentences import sentences
from symbreak.sweeps.report.table import load_runs, tabulate


def said(table):
    return {sentence.subject: sentence.text for sentence in sentences(table)}


def test_each_arm_is_described_by_what_it_did(sweep_table):
    text = said(sweep_table)
    assert text["zero init, strict"].startswith(
        "kept 1 distinct filter in 6 of 6 hidden layers; feature asymmetry exactly 0 at every measured step up to 600; "
        "ended at 25.5 % test accuracy"
    )
    assert text["1 ulp rounding noise"].startswith("escaped from symmetry (asymmetry at or above 0.1) at step ")
    assert "growing tenfold every 42 steps" in text["1 ulp rounding noise"]
    assert text["He init"].startswith("features differed from the start")
    assert "ended at" in text["Backward correlation"]
    assert "ended in the range of He's 2 seeds" in text["Backward correlation"]


@pytest.mark.parametrize("name", ["cifar10_jpeg", "fashion_mnist", "lottery_ticket", "zero_init", "zero_mlp"])
def test_the_runs_of_he_are_seeds_only_if_they_are_one_arm(name):
    table, text = recorded(name), (RESULTS / name / "README.md").read_text()
    found = [line for line in sentences(table) if line.subject.endswith(" correlation")]
    assert len(found) == 2
    for sentence in found:
        assert f"- **{sentence.subject}** {sentence.text}\n" in text
        assert ("runs (" in sentence.text) is (name in ("lottery_ticket", "zero_init"))


def test_a_rise_that_is_not_exponential_has_no_rate(sweep_table):
    sweep_table = replace(sweep_table, runs=sweep_table.runs.assign(**{"symmetry/growth_rate_r2": 0.5}))
    text = said(sweep_table)["1 ulp rounding noise"]
    assert text.startswith("escaped from symmetry")
    assert "tenfold" not in text


def test_copies_are_described_by_their_separation_and_the_loss(copies_table):
    text, loss = said(copies_table), copies_table.final("test/loss")
    even, uneven = (loss[copies_table.runs["arm"] == arm].item() for arm in ("split=even", "split=uneven"))
    assert text["split=even"] == f"copies kept equal bits for 8 steps; ended at a test loss of {even:.3f} nats."
    assert text["split=uneven"].startswith("copies differed after 1 step; asymmetry among them at the end 0.")
    assert text["split=uneven"].endswith(f"; ended at a test loss of {uneven:.3f} nats.")


def test_the_noise_law_is_put_in_words(law_table):
    text = said(law_table)
    assert text["Initial noise"].startswith("escape fell monotonically from step ")
    assert text["rounding noise 1 ulp"] == "acts like initial noise of scale below 1e-8."
    assert text["rounding noise 100 ulps"].startswith("acts like initial noise of scale ")


def test_symmetry_that_broke_without_escape(tmp_path):
    write_run(tmp_path / "run", config_of(ulps=1.0), 100)
    (sentence,) = sentences(load_runs([tmp_path]))
    assert sentence.subject == "all runs"
    assert sentence.text.startswith("symmetry broke, but asymmetry stayed at or below ")


def test_runs_that_did_not_all_escape(tmp_path):
    write_run(tmp_path / "1", config_of(0, noise=1e-3), 200)
    write_run(tmp_path / "2", config_of(1, noise=1e-3), 40)
    (sentence,) = sentences(load_runs([tmp_path]))
    assert "in 1 of 2 runs" in sentence.text


def test_nothing_is_said_about_nothing(tmp_path):
    assert sentences(tabulate([])) == []
    folder = write_run(tmp_path / "run", config_of(), 50)
    (folder / "metrics.csv").write_text("step,some/key\n0,1\n")
    (folder / "summary.json").write_text('{"some/key": 1}')
    assert sentences(load_runs([tmp_path])) == []


def test_runs_that_are_not_finished_are_said_to_be(real_table):
    text = said(real_table)
    assert text["noise_scale=0.001, threshold=0.1"].endswith("; not finished.")
    assert "up to step 16" in text["noise_scale=0.001, threshold=0.1"]
    assert "not finished" not in text["noise_scale=0.01, threshold=0.1"]
    assert "at or above 0.5" in text["noise_scale=0.03, threshold=0.5"]


def test_the_output_layer_is_no_hidden_one_whatever_the_order_of_columns(real_runs):
    for name in ("0-zero", "8-ranks"):
        (sentence,) = sentences(load_runs([real_runs / name]))
        assert sentence.text.startswith("kept 1 distinct filter in 6 of 6 hidden layers;")


def test_a_run_that_went_on_elsewhere_did_not_differ_from_the_start(real_runs, tmp_path):
    folder = shutil.copytree(real_runs / "2-noise", tmp_path / "run")
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    step = lines[0].strip().split(",").index("step")
    rows = [line for line in lines[1:] if int(line.split(",")[step]) > 54]
    (folder / "metrics.csv").write_text("".join([lines[0], *rows]))
    (sentence,) = sentences(load_runs([folder]))
    assert re.match(r"escaped from symmetry .* at step 50;", sentence.text)


def test_a_run_that_diverged_is_said_to_have(real_folder):
    table = load_runs([real_folder / "diverged"])
    step = json.loads((real_folder / "diverged" / "summary.json").read_text())["symmetry/diverged_step"]
    (sentence,) = sentences(table)
    assert f"; diverged at step {step:.0f};" in sentence.text
    grid = by_run(table)
    assert grid.rows[0][grid.columns.index("diverged step")].text == f"{step:.0f}"
    figure = growth(table)
    assert figure is not None
    marks = [trace for trace in figure.plot.to_plotly_json()["data"] if trace.get("marker", {}).get("symbol") == "x"]
    assert [list(mark["x"]) for mark in marks] == [[step]]
    assert "diverged" in marks[0]["hovertemplate"]


def test_divergence_is_counted_over_an_arm(tmp_path):
    for number in range(3):
        folder = write_run(tmp_path / str(number), config_of(number, noise=1e-3), 200)
        summary = json.loads((folder / "summary.json").read_text())
        if number:
            (folder / "summary.json").write_text(json.dumps(summary | {"symmetry/diverged_step": 50 * number}))
    (sentence,) = sentences(load_runs([tmp_path]))
    assert "; diverged at step 75 in 2 of 3 runs;" in sentence.text


CAUSE = "aten::convolution_backward, gradient of blocks.3.conv.weight, float64, 64 filters in 3 groups, at most 1 ulp"


def test_what_a_trace_found_stands_in_the_findings_and_both_tables(tmp_path):
    told = [f"symmetry broke at step 2: {CAUSE}", f"symmetry broke at step 3: {CAUSE}", None]
    for number, cause in enumerate(told):
        folder = write_run(tmp_path / str(number), config_of(number, noise=1e-3), 200)
        state = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(state | ({"symmetry": {"cause": cause}} if cause else {})))
    table = load_runs([tmp_path])
    (sentence,) = sentences(table)
    assert f"; cause: {CAUSE}, in 2 of 3 runs;" in sentence.text
    arms, runs = by_arm(table), by_run(table)
    assert arms.rows[0][arms.columns.index("cause")].text == f"{CAUSE}, in 2 of 3 runs"
    assert [row[runs.columns.index("cause")].text for row in runs.rows] == [CAUSE, CAUSE, "\N{EN DASH}"]


def test_a_cause_that_is_no_text_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run", config_of(), 50)
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(state | {"symmetry": {"cause": [1]}}))
    table = load_runs([tmp_path])
    assert "cause" not in sentences(table)[0].text
    assert "cause" not in by_arm(table).columns
