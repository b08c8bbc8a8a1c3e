"""Sentences about the runs, computed from their results."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import readable
from symbreak.sweeps.report.equivalent_noise import NoiseLaw, noise_laws
from symbreak.sweeps.report.figures.clones import ASYMMETRY as COPIES
from symbreak.sweeps.report.figures.clones import separated
from symbreak.sweeps.report.figures.correlation import he_runs
from symbreak.sweeps.report.figures.style import MAX_ARMS, arm_styles
from symbreak.sweeps.report.growth import ASYMMETRY, escapes, median_step, thresholds
from symbreak.sweeps.report.table import RunTable, final_accuracy_key, split_name
from symbreak.sweeps.run.outcome import DISTINCT, STRAIGHT, common_cause


@dataclass(frozen=True)
class Sentence:
    """A sentence, and the arm or other subject that it is about."""

    subject: str
    text: str


def sentences(table: RunTable) -> list[Sentence]:
    """Return sentences about each arm's symmetry and accuracy, the noise law, the correlations, and omitted arms."""
    if table.runs.empty:
        return []
    arms = list(arm_styles(table))
    facts = escapes(table).assign(arm=table.runs["arm"])
    found = [sentence for arm in arms if (sentence := _arm(table, facts[facts["arm"] == arm], arm))]
    found += [line for law in noise_laws(table) for line in _law(law)]
    found += list(_correlations(table))
    if len(table.arms) > MAX_ARMS:
        text = f"{len(arms)} of {len(table.arms)} are described here; the tables hold all of them."
        found.append(Sentence("Arms", text))
    return found


def _arm(table: RunTable, facts: pd.DataFrame, arm: str) -> Sentence | None:
    cause = common_cause(table.outcomes[run] for run in facts.index)
    parts = [_symmetry(table, facts), f"cause: {cause}" if cause else "", _divergence(table, facts)]
    parts += [_accuracy(table, arm), _unfinished(facts)]
    text = "; ".join(part for part in parts if part)
    return Sentence(arm, f"{text}.") if text else None


def _copies(table: RunTable, runs: list[int]) -> str:
    """Describe when copies of units began to differ, and by how much they differ in the end."""
    if not table.has(COPIES):
        return ""
    steps, last = (values[values.index.isin(runs)] for values in separated(table))
    if last.empty:
        return ""
    if steps.isna().all():
        return f"copies kept equal bits for {last.max():.0f} steps"
    first = int(median_step(steps.to_numpy(), last.to_numpy())[0])
    when = f"copies differed after {first} step{'s' * (first > 1)}" if first else "units differed from the start"
    return f"{when}; asymmetry among them at the end {table.final(COPIES)[last.index].median():.2g}"


def _symmetry(table: RunTable, facts: pd.DataFrame) -> str:
    """Describe an arm's symmetry: kept exactly, broken below the threshold, escaped, or absent from the start."""
    measured = facts.dropna(subset="last")
    if measured.empty:
        return ""
    frame = table.series(ASYMMETRY)
    values = frame[frame["run"].isin(measured.index)]
    last = int(measured["last"].max())
    if not values["value"].any():
        return (
            f"{_distinct(table, list(measured.index))}feature asymmetry exactly 0 at every measured step up to {last}"
        )
    if measured["escape"].isna().all():
        return f"symmetry broke, but asymmetry stayed at or below {values['value'].max():.1g} up to step {last}"
    if (measured["escape"] == 0).all():
        start = f"features differed from the start (asymmetry {values['value'].iloc[0]:.2g})"
        return _copies(table, list(measured.index)) or start
    return _escape(table, measured)


def _escape(table: RunTable, measured: pd.DataFrame) -> str:
    levels = " or ".join(f"{level:g}" for level in thresholds(table, measured.index))
    known = measured["escape"].dropna()
    step, is_known = median_step(measured["escape"].to_numpy(), measured["last"].to_numpy())
    text = f"escaped from symmetry (asymmetry at or above {levels})"
    text += f" at step {step:.0f}" if is_known else f", half of the runs or more not before step {step:.0f}"
    if known.nunique() > 1:
        text += f" ({known.min():.0f} to {known.max():.0f} over {len(known)} seeds)"
    if len(known) < len(measured):
        text += f" in {len(known)} of {len(measured)} runs"
    rate, r2 = table.event("growth_rate")[measured.index], table.final("symmetry/growth_rate_r2")[measured.index]
    is_straight = rate.median() > 0 and r2.median() >= STRAIGHT
    return f"{text}, growing tenfold every {math.log(10) / rate.median():.0f} steps" if is_straight else text


def _distinct(table: RunTable, runs: list[int]) -> str:
    """Return in how many layers all filters stayed equal, by each layer's largest count over steps and runs."""
    layers = dict.fromkeys(layer for run in runs for layer in table.outcomes[run].distinct_filters)
    keys = [key for layer in layers if (key := f"{DISTINCT}/{layer}") in table.history]
    most = table.history.loc[table.history["run"].isin(runs), keys].max().dropna()
    if most.empty:
        return ""
    hidden = "hidden " if all("output_layers" in table.meta[run] for run in runs) else ""
    return f"kept 1 distinct filter in {int((most == 1).sum())} of {len(most)} {hidden}layers; "


def _divergence(table: RunTable, facts: pd.DataFrame) -> str:
    steps = table.event("diverged_step")[facts.index].dropna()
    if steps.empty:
        return ""
    share = f" in {len(steps)} of {len(facts)} runs" if len(facts) > 1 else ""
    return f"diverged at step {steps.median():.0f}{share}"


def _accuracy(table: RunTable, arm: str) -> str:
    if table.has("test/perplexity"):
        loss = table.final("test/loss")[table.runs["arm"] == arm].dropna()
        return f"ended at a test loss of {loss.mean():.3f} nats" if len(loss) else ""
    key = final_accuracy_key(table)
    if key is None:
        return ""
    values = table.final(key)[table.runs["arm"] == arm].dropna()
    if values.empty:
        return ""
    spread = f" ± {100 * values.std():.1f} points, {len(values)} seeds" if len(values) > 1 else ""
    return f"ended at {100 * values.mean():.1f} % {split_name(key)} accuracy{spread}"


def _unfinished(facts: pd.DataFrame) -> str:
    count = int((~facts["finished"]).sum())
    if len(facts) == 1:
        return "not finished" if count else ""
    return f"{count} of {len(facts)} runs not finished" if count else ""


def _law(law: NoiseLaw) -> Iterator[Sentence]:
    scales, steps = law.curve.scales, law.curve.middle
    where = f" ({law.setting})" if law.setting != "all runs" else ""
    falling = "fell monotonically" if (np.diff(steps) < 0).all() else "did not rise"
    yield Sentence(
        "Initial noise",
        f"escape {falling} from step {steps[0]:.0f} at scale {readable(float(scales[0]))} to "
        f"step {steps[-1]:.0f} at scale "
        f"{readable(float(scales[-1]))}{where}.",
    )
    for source in law.sources:
        if source.escaped:
            rest = f"; {source.not_escaped} of {source.runs} runs did not escape" if source.not_escaped else ""
            yield Sentence(source.label, f"acts like initial noise of scale {source.text}{where}{rest}.")


def _correlations(table: RunTable) -> Iterator[Sentence]:
    """Compare the final correlations of He's initialisation with those of the arms that escaped from symmetry."""
    he = he_runs(table)
    escaped = ~he & escapes(table)["escape"].notna()
    for direction in ("forward", "backward"):
        final = table.final(f"diversity/{direction}_correlation")
        random = final[he].dropna()
        if len(random) and final[escaped].notna().any():
            ends = final[escaped].groupby(table.runs["arm"]).mean().dropna()
            text = (
                f"ended at {random.mean():.3f} after He's initialisation, and between {ends.min():.3f} and "
                f"{ends.max():.3f} in the arms that escaped from symmetry"
            )
            if len(random) > 1:
                met = int(ends.between(random.min(), random.max()).sum())
                what = "seeds" if table.runs["arm"][random.index].nunique() == 1 else "runs"
                text += f"; {met} of {len(ends)} ended in the range of He's {len(random)} {what}"
                text += f" ({random.min():.3f} to {random.max():.3f})"
            yield Sentence(f"{direction.capitalize()} correlation", f"{text}.")
