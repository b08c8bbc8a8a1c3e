"""Optuna in a sweep: draw points, learn from results, stop runs early."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import Trial, TrialState

from symbreak.sweeps.search import points
from symbreak.sweeps.search.draw import suggest_point
from symbreak.sweeps.search.points import Point
from symbreak.sweeps.search.sweep_file import SweepFile


class Optimizer:
    """An Optuna study in memory, rebuilt from the results of earlier calls.

    Args:
        sweep: The sweep.
        varying: Dotted keys of the parameters that vary.
    """

    def __init__(self, sweep: SweepFile, varying: Sequence[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.varying, rule = sweep, varying, sweep.early_terminate
        self.is_needed = sweep.method != "grid" or bool(rule)
        self.study = optuna.create_study(
            direction=sweep.metric.get("goal", "minimize"),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=rule["min_iter"], reduction_factor=rule["eta"])
            if rule
            else optuna.pruners.NopPruner(),
        )
        self._trials: dict[int, Trial] = {}

    def ask(self, point: Point) -> None:
        """Draw a point, or repeat the draw of an earlier attempt; do nothing if its trial is in progress."""
        if not self.is_needed or point.number in self._trials:
            return
        # Seeded by the number, so that a point of a random sweep does not depend on when it is drawn.
        seed = zlib.crc32(f"{self.sweep.name}/{point.number - 1}".encode())
        self.study.sampler = (
            optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            if self.sweep.method == "bayes"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        if point.draw:
            self.study.enqueue_trial(point.draw["params"])
        trial = self._trials[point.number] = self.study.ask()
        if self.sweep.method != "grid":
            point.parameters = suggest_point(trial, self.sweep.parameters)
            point.label = points.label(point.parameters, self.varying)
            distributions = {key: distribution_to_json(form) for key, form in trial.distributions.items()}
            point.draw = {"params": trial.params, "distributions": distributions}

    def report(self, point: Point, step: int, value: float) -> bool:
        """Record the metric's step-th value; return whether early termination stops the run."""
        trial = self._trials[point.number]
        trial.report(value, step)
        return trial.should_prune()

    def tell(self, point: Point, status: str, value: float | None) -> None:
        """Record how an attempt ended."""
        trial = self._trials.pop(point.number, None)
        if trial is not None:
            state = _state(status, value)
            self.study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)

    def learn(self, point: Point, values: Sequence[float]) -> None:
        """Add a result of an earlier call.

        Args:
            point: A point that finished or was pruned.
            values: Its metric's history.
        """
        state = _state(point.status, point.value)
        distributions = point.draw.get("distributions", {})
        trial = optuna.trial.create_trial(
            state=state,
            value=point.value if state == TrialState.COMPLETE else None,
            params=point.draw.get("params", {}),
            distributions={name: json_to_distribution(text) for name, text in distributions.items()},
            intermediate_values=dict(enumerate(values, 1)),
        )
        self.study.add_trial(trial)


def _state(status: str, value: float | None) -> TrialState:
    if status == "finished" and value is not None:
        return TrialState.COMPLETE
    # Optuna ranks a pruned trial without values below all others; it would forget a failed one.
    return TrialState.PRUNED if status in ("finished", "pruned") else TrialState.FAIL
