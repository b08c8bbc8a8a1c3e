"""What the runs show, in plain sentences computed from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symbreak.sweeps.report.arms import readable
from symbreak.sweeps.report.equivalent_noise import NoiseLaw, noise_laws
from symbreak.sweeps.report.figures.style import MAX_ARMS, arm_styles
from symbreak.sweeps.report.figures.training import final_accuracy_key, split_name
from symbreak.sweeps.report.growth import ASYMMETRY, escapes, growth_fit, threshold
from symbreak.sweeps.report.table import RunTable

DISTINCT = "symmetry/distinct_filters"
_HE_NAMES = frozenset({"he", "kaiming"})


@dataclass(frozen=True)
class Finding:
    """A sentence, and the arm or subject that it is about."""

    subject: str
    text: str


def findings(table: RunTable) -> list[Finding]:
    """Sentences about each arm's symmetry and accuracy, the noise law, the correlations, and what is missing."""
    if table.runs.empty:
        return []
    arms = list(arm_styles(table))
    facts = escapes(table).assign(arm=table.runs["arm"])
    sentences = [sentence for arm in arms if (sentence := _arm(table, facts[facts["arm"] == arm], arm))]
    sentences += [line for law in noise_laws(table) for line in _law(law)]
    sentences += list(_correlations(table))
    if len(table.arms) > MAX_ARMS:
        text = f"{len(arms)} of {len(table.arms)} are described here; the tables hold all of them."
        sentences.append(Finding("Arms", text))
    return sentences


def _arm(table: RunTable, facts: pd.DataFrame, arm: str) -> Finding | None:
    parts = [_symmetry(table, facts), _accuracy(table, arm)]
    text = "; ".join(part for part in parts if part)
    return Finding(arm, f"{text}.") if text else None


def _symmetry(table: RunTable, facts: pd.DataFrame) -> str:
    """How an arm's symmetry fared: kept exactly, broken below the threshold, escaped, or never there."""
    measured = facts.dropna()
    if measured.empty:
        return ""
    frame = table.series(ASYMMETRY)
    values = frame[frame["run"].isin(measured.index)]
    last = int(measured["last"].max())
    if not values["value"].any():
        return (
            f"{_distinct(table, list(measured.index))}feature asymmetry exactly 0 at every measured step up to {last}"
        )
    if np.isinf(measured["escape"]).all():
        return f"symmetry broke, but asymmetry stayed at or below {values['value'].max():.1g} up to step {last}"
    if (measured["escape"] <= values["step"].min()).all():
        return f"features differed from the start (asymmetry {values['value'].iloc[0]:.2g})"
    return _escape(measured["escape"], values, threshold(table))


def _escape(escape: pd.Series, values: pd.DataFrame, level: float) -> str:
    known = escape[np.isfinite(escape)]
    text = f"escaped from symmetry (asymmetry above {level:g}) at step {known.median():.0f}"
    if known.nunique() > 1:
        text += f" ({known.min():.0f} to {known.max():.0f} over {len(known)} seeds)"
    if len(known) < len(escape):
        text += f" in {len(known)} of {len(escape)} runs"
    median = values.groupby("step")["value"].median()
    fit = growth_fit(median.index.to_numpy(), median.to_numpy())
    if fit and fit.rate > 0:
        text += f", growing tenfold every {math.log(10) / fit.rate:.0f} steps (R² {fit.r2:.3f})"
    return text


def _distinct(table: RunTable, runs: list[int]) -> str:
    """`kept 1 distinct filter in 10 of 10 hidden layers; `, by each layer's largest count over steps and runs."""
    keys = [f"{DISTINCT}/{layer}" for layer in table.hidden_layers(DISTINCT)]
    most = table.history.loc[table.history["run"].isin(runs), keys].max().dropna()
    if most.empty:
        return ""
    return f"kept 1 distinct filter in {int((most == 1).sum())} of {len(most)} hidden layers; "


def _accuracy(table: RunTable, arm: str) -> str:
    key = final_accuracy_key(table)
    if key is None:
        return ""
    values = table.outcome(key)[table.runs["arm"] == arm].dropna()
    if values.empty:
        return ""
    spread = f" ± {100 * values.std():.1f} points, {len(values)} seeds" if len(values) > 1 else ""
    return f"ended at {100 * values.mean():.1f} % {split_name(key)} accuracy{spread}"


def _law(law: NoiseLaw) -> Iterator[Finding]:
    known = np.isfinite(law.curve.middle)
    scales, steps = law.curve.scales[known], law.curve.middle[known]
    where = f" ({law.setting})" if law.setting != "all runs" else ""
    falling = "fell monotonically" if (np.diff(steps) < 0).all() else "did not rise"
    yield Finding(
        "Initial noise",
        f"escape {falling} from step {steps[0]:.0f} at scale {readable(float(scales[0]))} to "
        f"step {steps[-1]:.0f} at scale "
        f"{readable(float(scales[-1]))}{where}.",
    )
    for source in law.sources:
        if source.text != "no escape":
            yield Finding(source.label, f"acts like initial noise of scale {source.text}{where}.")


def _correlations(table: RunTable) -> Iterator[Finding]:
    """Where He's initialisation and the arms that escaped from symmetry end."""
    inits = [key for key in table.runs if str(key).rsplit(".", 1)[-1] == "init"]
    if not inits:
        return
    he = table.runs[inits].isin(_HE_NAMES).any(axis=1)
    escaped = ~he & np.isfinite(escapes(table)["escape"])
    for direction in ("forward", "backward"):
        final = table.outcome(f"diversity/{direction}_correlation")
        if final[he].notna().any() and final[escaped].notna().any():
            ends = final[escaped].groupby(table.runs["arm"]).mean().dropna()
            yield Finding(
                f"{direction.capitalize()} correlation",
                f"ended at {final[he].mean():.3f} after He's initialisation, and between {ends.min():.3f} and "
                f"{ends.max():.3f} in the arms that escaped from symmetry.",
            )
