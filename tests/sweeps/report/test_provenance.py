import json

from tests.sweeps.report.example_runs import META, config_of, write_run

from symbreak.sweeps.report.provenance import SHOWN, audit_provenance, commands, provenance
from symbreak.sweeps.report.table import load_runs


def test_what_is_shown_is_what_runs_note(real_runs, real_table):
    noted = json.loads((real_runs / "0-zero" / "run.json").read_text())
    assert set(SHOWN) <= set(noted)
    told = {row[0] for row in provenance(real_table)}
    assert {"symbreak", "code: commit", "environment: torch", "determinism: deterministic_algorithms"} <= told
    assert {"acceleration: compile", "acceleration: channels_last", "acceleration: precision"} <= told
    assert ("environment: world_size", "2", 1) in provenance(real_table)
    assert commands(real_table)[0][1].startswith("symbreak fit ")


def test_the_examples_have_the_form_of_real_runs(real_runs, tmp_path):
    example, real = write_run(tmp_path / "run", config_of(), 20), real_runs / "0-zero"
    noted = json.loads((real / "run.json").read_text())
    assert set(META) | {"status", "error"} == set(noted)
    assert {key for group in SHOWN for key in META[group]} <= {key for group in SHOWN for key in noted[group]}
    ours, theirs = (load_runs([folder]) for folder in (example, real))
    assert set(ours.configs[0]) - set(theirs.configs[0]) == {"trainer.callbacks"}  # real runs have one that ends them
    assert {key for key in ours.runs if "/" in str(key) and "block" not in str(key)} - {
        "diversity/stable_rank_change",
        "test/loss",
        "val/loss",
    } <= set(theirs.runs)


def test_values_are_words_and_what_says_nothing_is_left_out():
    content = {"git": {"commit": "abc", "dirty": False}, "cuda": None, "acceleration": {"fused": [None, True]}}
    assert audit_provenance("a.json", content) == [
        ("a.json: code: commit", "abc", 1),
        ("a.json: code: uncommitted changes", "no", 1),
        ("a.json: acceleration: fused", "yes", 1),
    ]
