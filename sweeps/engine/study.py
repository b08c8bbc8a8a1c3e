"""The state of a sweep in an Optuna study, shared by every caller that works on it.

Every point has a *seat*. A seat is offered by a WAITING trial, and Optuna's atomic change from WAITING to RUNNING is
the claim, so two callers never run the same point. The trial of a run or caller that was killed becomes FAIL without an
error, and its seat is offered again. Two callers may offer one seat at the same time; of two unfailed trials of one
seat the earlier counts, and whoever claims the later one drops it.
"""

import contextlib
import os
import socket
import time
import uuid
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.process import started
from symbreak.sweeps.search import points, space
from symbreak.sweeps.search.points import Point, Row
from symbreak.sweeps.search.sweep_file import SweepFile

ATTEMPTS = 10
"""How often a point is started whose process is killed each time, before it counts as failed."""
HEARTBEAT_SECONDS = 15.0
SILENT_SECONDS = 120.0
"""How long a caller on another machine may stay silent before its points are offered again."""


@dataclass(frozen=True)
class Claim:
    """A point that this caller runs, and the trial that stands for it."""

    point: Point
    trial: Trial


class Store:
    """One caller's view of a sweep's study.

    Args:
        sweep: The checked sweep file.
        storage: Optuna's storage.

    Attributes:
        grid: The different points of a grid.
        total: How many points the sweep has, None if it never ends.

    Raises:
        UsageError: If the study holds runs of another command, or of another search space.
    """

    def __init__(self, sweep: SweepFile, storage: BaseStorage) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sweep = sweep
        self.grid = space.grid_points(sweep.parameters) if sweep.method == "grid" else []
        self.grid = list({points.identity(point): point for point in self.grid}.values())[: sweep.run_cap]
        rule = sweep.early_terminate
        self.study = optuna.create_study(
            storage=storage,
            study_name=sweep.name,
            load_if_exists=True,
            direction=sweep.metric.get("goal", "minimize"),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=rule["min_iter"], reduction_factor=rule["eta"])
            if rule
            else optuna.pruners.NopPruner(),
        )
        self._check_same_sweep()
        self.total = len(self.grid) or sweep.run_cap
        self.caller = uuid.uuid4().hex[:12]
        self._owner = [self.caller, socket.gethostname(), os.getpid(), started(os.getpid())]
        self._last_beat = 0.0

    def _check_same_sweep(self) -> None:
        sweep = self.sweep
        mine = {"method": sweep.method, "command": sweep.command, "program": sweep.program, "metric": sweep.metric}
        if sweep.method != "grid":
            mine["parameters"] = sweep.parameters
        theirs = self.study.user_attrs.get("sweep")
        if theirs is None:
            self.study.set_user_attr("sweep", mine)
        elif changed := [key for key in mine if mine[key] != theirs.get(key)]:
            raise UsageError(
                f"{sweep.path}: {changed[0]}: differs from that of the runs which sweep {sweep.name!r} has already; "
                "give the file another `name`, or remove the old runs"
            )

    def offer(self, retry_failed: bool = False) -> None:
        """Offer every seat that nobody has, up to the grid's or the run cap's end; without a cap, always one.

        Args:
            retry_failed: Whether to offer the seats of failed runs again too.
        """
        trials = self._trials()
        taken = {trial.user_attrs["seat"] for trial in trials if _is_alive(trial)}
        if not retry_failed:
            taken |= {trial.user_attrs["seat"] for trial in trials if "error" in trial.user_attrs}
        for seat, attributes in self._seats(taken, trials):
            if seat not in taken:
                self._offer_seat(seat, attributes, trials)

    def _seats(self, taken: set[str], trials: list[FrozenTrial]) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.sweep.method == "grid":
            yield from ((points.identity(point), {"parameters": point}) for point in self.grid)
            return
        is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
        cap = self.sweep.run_cap or len(taken) + (0 if is_waiting else 1)
        yield from ((str(index), {}) for index in range(cap))

    def _offer_seat(self, seat: str, attributes: dict[str, Any], trials: list[FrozenTrial]) -> None:
        past = [trial for trial in trials if trial.user_attrs["seat"] == seat and "parameters" in trial.user_attrs]
        if past:
            attributes = {"parameters": past[-1].user_attrs["parameters"]}
        self.study.enqueue_trial(past[-1].params if past else {}, user_attrs={"seat": seat, **attributes})

    def claim(self) -> Claim | None:
        """Claim a point that nobody runs yet.

        Returns:
            The claim, or None if no point is left for the moment.
        """
        while any(trial.state == TrialState.WAITING for trial in self._trials()):
            trial = self.study.ask()
            trial.set_user_attr("owner", self._owner)
            seat = trial.user_attrs.get("seat")
            if seat is None or self._is_surplus(trial.number, seat):
                self._tell(trial.number, TrialState.FAIL)
                continue
            if self.sweep.method != "grid":
                self.study.sampler = self._sampler(seat)
                trial.set_user_attr("parameters", space.suggest_point(trial, self.sweep.parameters))
            return Claim(next(row.point for row in self.rows() if row.point.seat == seat), trial)
        return None

    def _sampler(self, seat: str) -> optuna.samplers.BaseSampler:
        # Seeded by the seat: a point of a random sweep is the same whoever draws it, whenever.
        seed = zlib.crc32(f"{self.sweep.name}/{seat}".encode())
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _is_surplus(self, number: int, seat: str) -> bool:
        earlier = (other for other in self._trials() if other.number < number and _is_alive(other))
        is_known = self.sweep.method != "grid" or seat in map(points.identity, self.grid)
        return not is_known or any(other.user_attrs["seat"] == seat for other in earlier)

    def report(self, claim: Claim, step: int, value: float) -> bool:
        """Record the metric's step-th value; return whether early termination stops the run."""
        claim.trial.report(value, step)
        return claim.trial.should_prune()

    def finish(self, claim: Claim, value: float | None, pruned: bool = False) -> None:
        """Record a run that ended well, or that early termination stopped.

        Args:
            claim: The claim of the run.
            value: The sweep's metric, None if the sweep has none or the run never logged it.
            pruned: Whether early termination stopped it.
        """
        attribute = {"end": ["pruned" if pruned else "finished", value]}
        if not self.sweep.metric:
            value = 0.0  # Optuna wants a value of every completed trial
        is_complete = value is not None and not pruned
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        self._end(claim, attribute, state, value if is_complete else None)

    def fail(self, claim: Claim, error: str) -> None:
        """Record a run that ended with an error."""
        self._end(claim, {"error": error}, TrialState.FAIL)

    def release(self, claim: Claim, killed: bool) -> None:
        """Give a point back: its process was killed, or the caller was interrupted."""
        attempts = [trial for trial in self._trials() if trial.user_attrs["seat"] == claim.point.seat]
        kills = 1 + sum(trial.user_attrs.get("lost") == "killed" for trial in attempts)
        if killed and kills >= ATTEMPTS:
            self.fail(claim, f"its process was killed {kills} times")
        else:
            self._end(claim, {"lost": "killed" if killed else "interrupted"}, TrialState.FAIL)

    def _end(self, claim: Claim, attribute: dict[str, Any], state: TrialState, value: float | None = None) -> None:
        # Another caller that took this one for dead may have ended the trial already; then its word stands.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for name, content in attribute.items():
                claim.trial.set_user_attr(name, content)
            self._tell(claim.trial.number, state, value)

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(number, value, state=state, skip_if_finished=True)

    def beat(self) -> None:
        """Say that this caller is alive, and give back the points of callers that are not; cheap to call often."""
        if time.monotonic() - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = time.monotonic()
        self.study.set_user_attr(f"alive {self.caller}", time.time())
        beats = self.study.user_attrs
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and not self._is_owned(trial, beats):
                self._tell(trial.number, TrialState.FAIL)

    def _is_owned(self, trial: FrozenTrial, beats: dict[str, Any]) -> bool:
        caller, host, pid, since = trial.user_attrs.get("owner", ["", "", 0, ""])
        if caller and host == socket.gethostname():
            return started(pid) == since
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() - max(beats.get(f"alive {caller}", 0.0), begun) < SILENT_SECONDS

    def _trials(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if "seat" in trial.user_attrs]

    def rows(self) -> list[Row]:
        """Return every point in the order of its number, each with its last trial's outcome."""
        last: dict[str, FrozenTrial] = {}
        numbers: dict[str, int] = {}
        for trial in self._trials():
            seat = trial.user_attrs["seat"]
            numbers.setdefault(seat, len(numbers) + 1)
            if "parameters" in trial.user_attrs and (_is_alive(trial) or "error" in trial.user_attrs):
                last[seat] = trial if seat not in last or not _is_alive(last[seat]) else last[seat]
        if self.sweep.method == "grid":
            last = {seat: trial for seat, trial in last.items() if seat in set(map(points.identity, self.grid))}
        varying = self._varying()
        return [_row(last[seat], number, varying) for seat, number in numbers.items() if seat in last]

    def _varying(self) -> list[str]:
        if self.sweep.method == "grid":
            return points.varying(self.grid)
        forms = space.leaves(self.sweep.parameters)
        return [".".join(path) for path, form in forms if space.distribution_of("", form) != "constant"]


def _is_alive(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL


def _row(trial: FrozenTrial, number: int, varying: list[str]) -> Row:
    attributes = trial.user_attrs
    parameters = attributes["parameters"]
    point = Point(attributes["seat"], number, parameters, points.label(parameters, varying))
    ending, value = attributes.get("end", ["finished", None])
    names = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.FAIL: "failed"}
    return Row(point, names.get(trial.state) or str(ending), value, attributes.get("error", ""))
