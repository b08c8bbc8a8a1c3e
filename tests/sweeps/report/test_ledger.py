import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symbreak.sweeps.compare.predictions import churn, read_predictions
from symbreak.sweeps.report.command import report
from symbreak.sweeps.report.figures import ledger as figures
from symbreak.sweeps.report.grids import UNKNOWN
from symbreak.sweeps.report.ledger import Entry, Ledger, _differences, _placed, _spreads_differ, ledger
from symbreak.sweeps.report.ledger_sources import source_name
from symbreak.sweeps.report.ledger_table import ledger_grid, ledger_sentences, pairs_grid
from symbreak.sweeps.report.table import load_runs
from symbreak.sweeps.run.arguments import prepare
from symbreak.sweeps.run.command import main

FIXED = [f"--seeds.{source}=0" for source in ("init", "order", "augmentation", "dropout", "rounding")]
ALL = [*FIXED, "--perturbation.kind=noise", "--perturbation.scope=all"]
TREATMENTS = {
    "nothing": FIXED,
    "order": [option for option in FIXED if "order" not in option],
    "all seeds": [],
    "noise of 1e-06 on all weights at step 0": [*ALL, "--perturbation.scale=1e-6"],
    "noise of 0.01 on all weights at step 0": [*ALL, "--perturbation.scale=1e-2"],
    "noise of 0.01 on all weights at step 10": [*ALL, "--perturbation.scale=1e-2", "--perturbation.step=10"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two real runs of every treatment, a few steps long."""
    folder = tmp_path_factory.mktemp("ledger")
    base = ["fit", "--config=digits", "--model.init_args.depth=7", "--model.init_args.init=he"]
    base += ["--trainer.max_steps=30", "--snapshots.per_doubling=2", "--rounding_noise.ulps=1"]
    for number, options in enumerate(TREATMENTS.values()):
        for seed in (0, 1):
            path = folder / f"{number}-{seed}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["symbreak"])
                patch.setenv("WANDB_MODE", "disabled")
                patch.setenv("SYMBREAK_RUN_DIR", str(path))
                assert main(prepare([*base, f"--seed_everything={seed}", f"--run.dir={path}", *options])) == 0
    return load_runs([folder])


def entries(table):
    found = ledger(table)
    assert found is not None
    return {entry.source: entry for entry in found.entries}


def test_every_source_is_named_by_what_varies(table):
    assert list(entries(table)) == list(TREATMENTS)
    assert all(entry.runs == 2 for entry in entries(table).values())


def test_runs_in_which_nothing_varies_are_equal(table):
    nothing = entries(table)["nothing"]
    assert nothing.distance == nothing.churn == nothing.spread == 0
    assert nothing.separation == math.inf
    assert nothing.growth is None


def test_an_entry_says_what_the_runs_say(table):
    folders = [folder for folder in map(str, table.runs["folder"]) if "/1-" in folder]
    first, second = map(read_predictions, map(Path, folders))
    assert first is not None
    assert second is not None
    entry = entries(table)["order"]
    assert entry.churn == pytest.approx(churn(first, second))
    assert entry.accuracies == pytest.approx((first.accuracy, second.accuracy))
    assert entry.spread == pytest.approx(abs(first.accuracy - second.accuracy) / math.sqrt(2), rel=1e-5)
    assert entry.distance is not None
    assert entry.distance > 1e-3


def test_sources_lie_on_the_curve_of_noise_at_step_0(table):
    found = entries(table)
    small, large = (found[f"noise of {scale} on all weights at step 0"] for scale in ("1e-06", "0.01"))
    assert (small.noise, large.noise) == (1e-6, 1e-2)
    assert large.separation == 0
    assert small.separation == math.inf
    assert found["nothing"].equivalent in (None, 0)
    late = found["noise of 0.01 on all weights at step 10"]
    assert late.noise is None
    assert late.separation is not None
    assert 7 < late.separation <= 11


def test_two_runs_of_a_source_are_too_few_for_a_claim(table):
    found = ledger(table)
    assert found is not None
    assert found.spreads == found.churns == []
    assert set(found.too_few) == set(TREATMENTS)
    (sentence,) = ledger_sentences(found)
    assert sentence.text.startswith("for a claim (fewer than 5)")


def test_the_report_holds_the_ledger(table, tmp_path):
    folder = str(Path(table.runs["folder"].iloc[0]).parent)
    page = report([folder], tmp_path / "report.html").read_text()
    assert 'id="noise-ledger"' in page
    assert all(name in page for name in TREATMENTS)
    assert '"ledger-effects"' in page


def test_figures_draw_every_source(table):
    effect, rise = figures.effects(table), figures.growth(table)
    assert effect is not None
    assert rise is not None
    left_right, lines = list[Any](effect.plot.data), list[Any](rise.plot.data)
    assert [set(trace["y"]) for trace in left_right] == [set(TREATMENTS)] * 2
    drawn = {trace["name"]: trace for trace in lines}
    assert set(drawn) == set(TREATMENTS)
    assert not drawn["nothing"]["customdata"][:, 1].any()
    assert drawn["order"]["customdata"][-1, 1] == entries(table)["order"].distance


def test_other_sweeps_have_no_ledger(table):
    plain = replace(table, configs=[{k: v for k, v in c.items() if not k.startswith("seeds.")} for c in table.configs])
    assert ledger(plain) is None
    assert ledger_grid(None).rows == pairs_grid(None).rows == []
    assert ledger_sentences(None) == []


def entry(source, accuracies, separation=None, noise=None):
    return Entry(source, len(accuracies), tuple(accuracies), separation=separation, noise=noise)


def test_claims_are_made_from_five_runs_on_and_name_the_pair():
    random = np.random.default_rng(0)
    wide, narrow = (tuple(random.normal(0.9, scale, 10)) for scale in (0.05, 0.001))
    entries = [entry("a", wide), entry("b", narrow), entry("c", wide)]
    assert _differences(entries, _spreads_differ) == [("a", "b"), ("b", "c")]
    book = Ledger(entries, [("a", "b"), ("b", "c")], [], [])
    (_, _, spreads, churns), _ = pairs_grid(book).rows
    assert spreads.text == f"{100 * np.std(wide, ddof=1):.2f} and {100 * np.std(narrow, ddof=1):.2f}"
    assert churns.text == UNKNOWN
    effect, spread, churned = (sentence.text for sentence in ledger_sentences(book))
    assert effect.startswith("spread of the accuracy from 0.")
    origin = "(95 % bootstrap over runs, Bonferroni-corrected)."
    assert spread == f"differs significantly in 2 of 3 pairs of sources: b (2), a (1), c (1) {origin}"
    assert churned == f"differs significantly in none of 3 pairs of sources {origin}"


def test_any_source_is_placed_on_the_curve():
    curve = [entry("", (), step, scale) for scale, step in ((1e-6, 100.0), (1e-4, 60.0), (1e-2, 20.0))]
    sources = [entry("middle", (), 80.0), entry("early", (), 1.0), entry("never", (), math.inf), entry("not known", ())]
    placed = {each.source: each.equivalent for each in _placed([*curve, *sources])[3:]}
    assert placed["middle"] == pytest.approx(1e-5)
    assert placed["early"] == math.inf
    assert placed["never"] == 0
    assert placed["not known"] is None


def test_a_source_that_is_off_is_not_named():
    base = {"seed_everything": 0, "model.init_args.dropout": 0.0, "rounding_noise.ulps": 0.0, "seeds.init": 0}
    configs = [base | {"seed_everything": seed} for seed in (0, 1)]
    assert source_name(configs) == "order"
    assert source_name([config | {"seeds.order": 3} for config in configs]) == "nothing"
    on = [config | {"model.init_args.dropout": 0.1} for config in configs]
    assert source_name(on) == "order + dropout"
    assert source_name([config | {"seeds.dropout": 3} for config in configs]) == "order"
    kernels = [config | {"seeds.order": 3, "determinism.mode": "nondeterministic"} for config in configs]
    assert source_name(kernels) == "nondeterministic kernels"
