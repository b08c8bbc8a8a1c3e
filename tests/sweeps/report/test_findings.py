from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.sweeps.report.findings import findings
from symbreak.sweeps.report.table import load_runs, tabulate


def said(table):
    return {finding.subject: finding.text for finding in findings(table)}


def test_each_arm_is_described_by_what_it_did(sweep_table):
    text = said(sweep_table)
    assert text["zero init, strict"].startswith(
        "kept 1 distinct filter in 6 of 6 hidden layers; feature asymmetry exactly 0 at every measured step up to 600; "
        "ended at 25.5 % test accuracy"
    )
    assert text["1 ulp rounding noise"].startswith("escaped from symmetry (asymmetry above 0.1) at step ")
    assert "growing tenfold every 42 steps (R² 1.000)" in text["1 ulp rounding noise"]
    assert text["He init"].startswith("features differed from the start")
    assert "ended at" in text["Backward correlation"]


def test_the_noise_law_is_put_in_words(law_table):
    text = said(law_table)
    assert text["Initial noise"].startswith("escape fell monotonically from step ")
    assert text["rounding noise 1 ulp"] == "acts like initial noise of scale below 1e-8."
    assert text["rounding noise 100 ulps"].startswith("acts like initial noise of scale ")


def test_symmetry_that_broke_without_escape(tmp_path):
    write_run(tmp_path / "run", config_of(ulps=1.0), 100)
    (finding,) = findings(load_runs([tmp_path]))
    assert finding.subject == "all runs"
    assert finding.text.startswith("symmetry broke, but asymmetry stayed at or below ")


def test_runs_that_did_not_all_escape(tmp_path):
    write_run(tmp_path / "1", config_of(0, noise=1e-3), 200)
    write_run(tmp_path / "2", config_of(1, noise=1e-3), 40)
    (finding,) = findings(load_runs([tmp_path]))
    assert "in 1 of 2 runs" in finding.text


def test_nothing_is_said_about_nothing(tmp_path):
    assert findings(tabulate([])) == []
    folder = write_run(tmp_path / "run", config_of(), 50)
    (folder / "metrics.csv").write_text("step,some/key\n0,1\n")
    (folder / "summary.json").write_text("{}")
    assert findings(load_runs([tmp_path])) == []
