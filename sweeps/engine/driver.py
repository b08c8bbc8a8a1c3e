"""The loop of the offline engine: claim a point, start its run, watch it, record how it ended."""

import contextlib
import json
import multiprocessing.connection
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from symbreak.sweeps.engine.machine import cores, make_slots, run_environment, visible_gpus
from symbreak.sweeps.engine.progress import Progress, best_row, results
from symbreak.sweeps.engine.storage import open_storage
from symbreak.sweeps.engine.study import Claim, Store
from symbreak.sweeps.engine.workers import PRELOAD, ForkServer, Job, Run
from symbreak.sweeps.run.folder import ARGUMENTS, HISTORY, POINT, SUMMARY, flatten, history, last_lines, read_json
from symbreak.sweeps.search import sweep_file
from symbreak.sweeps.search.check import check_points
from symbreak.sweeps.search.points import Row
from symbreak.sweeps.search.sweep_file import SweepFile

POLL_SECONDS = 0.25
PLAIN_WIDTH = 160
INTERRUPTED = 130
ENDED_FROM_OUTSIDE = (128 + signal.SIGINT, 128 + signal.SIGTERM, 255)
"""Exit codes of runs that a signal ended in good order; 255 is that of a run whose fork server was killed."""


@dataclass
class Active:
    """A run of this caller.

    Attributes:
        claim: Its claim.
        run: Its process.
        slot: The index of its GPU group or CPU share.
        reported: How many values of the metric early termination has seen.
        pruned: Whether early termination has stopped it.
    """

    claim: Claim
    run: Run
    slot: int
    reported: int = 0
    pruned: bool = False


@dataclass
class Engine:
    """Runs the points of one sweep on this machine.

    Attributes:
        sweep: The sweep.
        store: Its shared state.
        server: What forks the runs.
        folder: The sweep's folder.
        slots: Extra environment variables of each worker.
        threads: CPU threads of each run.
    """

    sweep: SweepFile
    store: Store
    server: ForkServer
    folder: Path
    slots: list[dict[str, str]]
    threads: int
    active: list[Active] = field(default_factory=list)

    def run(self, show: Callable[[list[Row]], None]) -> None:
        """Work until no point is left that this caller could claim; an interrupt gives the running points back."""
        try:
            while self.step():
                show(self.store.rows())
                sentinels = [active.run.process.sentinel for active in self.active]
                multiprocessing.connection.wait(sentinels, timeout=POLL_SECONDS)
            show(self.store.rows())
        finally:
            self.shut_down()

    def step(self) -> bool:
        """Look after every run once; return whether there is anything left to do."""
        self.store.beat()
        for active in list(self.active):
            if active.run.exit_code() is not None:
                self.active.remove(active)
                self.record(active)
            elif self.sweep.early_terminate and not active.pruned:
                self.consider_stopping(active)
        self.store.offer()
        free = [slot for slot in range(len(self.slots)) if slot not in {active.slot for active in self.active}]
        for slot in free:
            claim = None if self.is_on_target() else self.store.claim()
            if claim is None:
                break
            self.active.append(Active(claim, self.start(claim, self.slots[slot]), slot))
        return bool(self.active)

    def is_on_target(self) -> bool:
        """Return whether a finished run has reached the metric's target."""
        best = best_row(self.store.rows(), self.sweep.metric) if "target" in self.sweep.metric else None
        if best is None or best.value is None:
            return False
        target = self.sweep.metric["target"]
        return best.value >= target if self.sweep.metric["goal"] == "maximize" else best.value <= target

    def start(self, claim: Claim, variables: dict[str, str]) -> Run:
        """Make a point's run folder afresh and start its run."""
        point = claim.point
        folder = point.folder(self.folder).resolve()
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was lost or failed
        folder.mkdir(parents=True)
        note = {
            "sweep": self.sweep.name,
            "number": point.number,
            "arm": point.label,
            "parameters": flatten(point.parameters),
        }
        (folder / POINT).write_text(json.dumps(note, indent=2))
        json_file = folder / ARGUMENTS
        if "${args_json_file}" in self.sweep.command:
            json_file.write_text(json.dumps(point.parameters))
        command = sweep_file.strip_env(sweep_file.expand_command(self.sweep, point.parameters, json_file))
        environment = run_environment(self.threads) | variables | {"SYMBREAK_RUN_DIR": str(folder)}
        environment.setdefault("WANDB_RUN_GROUP", self.sweep.name)
        return self.server.start(Job(command, folder, environment, self.threads))

    def record(self, active: Active) -> None:
        """Record how a run ended."""
        code, folder = active.run.exit_code(), active.claim.point.folder(self.folder)
        value = self.metric_value(folder)
        if active.pruned:
            self.store.finish(active.claim, value, pruned=True)
        elif code == 0:
            self.store.finish(active.claim, value)
        elif code is not None and (code < 0 or code in ENDED_FROM_OUTSIDE):
            self.store.release(active.claim, killed=True)
        else:
            self.store.fail(active.claim, last_lines(folder) or f"exit code {code}")

    def metric_value(self, folder: Path) -> float | None:
        """Return the sweep's metric from a run's summary, None where it was not logged."""
        value = read_json(folder / SUMMARY).get(self.sweep.metric.get("name", ""))
        return float(value) if isinstance(value, int | float) else None

    def consider_stopping(self, active: Active) -> None:
        """Report the metric's new values to early termination, and stop the run if it says so."""
        values = history(active.claim.point.folder(self.folder) / HISTORY, self.sweep.metric["name"])
        for index in range(active.reported, len(values)):
            active.reported = index + 1
            if self.store.report(active.claim, index + 1, values[index]):
                active.pruned = True
                active.run.stop()
                return

    def shut_down(self) -> None:
        """Stop what still runs and give its points back; nothing to do after a normal end."""
        for active in self.active:
            active.run.stop()
        try:
            while any(active.run.exit_code() is None for active in self.active):
                time.sleep(0.05)
        except KeyboardInterrupt:  # a second one
            for active in self.active:
                active.run.signal(signal.SIGKILL)
        for active in self.active:
            self.store.release(active.claim, killed=False)
        self.active = []


def run(sweep: SweepFile, workers: int | None, gpus_per_run: int | None, storage: str | None, folder: Path) -> int:
    """Run a checked sweep to its end.

    Args:
        sweep: The sweep.
        workers: See `make_slots`.
        gpus_per_run: See `make_slots`.
        storage: See `open_storage`.
        folder: The sweep's folder.

    Returns:
        0 if every run finished, 1 if one failed, 130 if interrupted.
    """
    server = ForkServer(PRELOAD if sweep.is_symbreak else ())
    check_points(sweep, server)
    store = Store(sweep, open_storage(storage, folder))
    store.offer(retry_failed=True)
    console = Console()
    console = console if console.is_terminal else Console(width=PLAIN_WIDTH)
    done = sum(row.status not in ("waiting", "running") for row in store.rows())
    if store.total is not None and done >= store.total:
        console.print(f"All {store.total} runs of sweep {sweep.name} are done already.")
        return report(store, folder, console)
    gpus = server.call(visible_gpus) if gpus_per_run != 0 else []
    slots = make_slots(workers, gpus_per_run, gpus, store.total)
    engine = Engine(sweep, store, server, folder, slots, max(1, cores() // len(slots)))
    progress = Progress(sweep.name, folder, store.total, sweep.metric, console)
    try:
        with interrupted_by_sigterm(), progress:
            engine.run(progress.show)
    except KeyboardInterrupt:
        console.print(f"Interrupted. The same call goes on where this one ended; runs are in {folder}.")
        return INTERRUPTED
    return report(store, folder, console)


def report(store: Store, folder: Path, console: Console) -> int:
    """Print the table of results and what to do next; return the exit code."""
    rows = store.rows()
    console.print(results(rows, folder, store.sweep.metric))
    count = {status: sum(row.status == status for row in rows) for status in ("running", "waiting", "failed")}
    if count["failed"]:
        console.print(f"{count['failed']} runs failed; their logs are in {folder}. The same call tries them again.")
    if count["running"] + count["waiting"]:
        console.print(f"{count['running']} runs are with other callers, {count['waiting']} are not started.")
    console.print(f"Runs are in {folder}. To start afresh, remove it or give the sweep another name.")
    return 1 if count["failed"] else 0


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Take SIGTERM, with which clusters end jobs, for an interrupt, so that running points are given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
