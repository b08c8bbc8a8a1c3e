"""`symbreak sweep`: run every point of a W&B sweep file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from symbreak.sweeps.engine.executor import Executor
    from symbreak.sweeps.engine.study import Study
    from symbreak.sweeps.search.sweep_file import SweepFile

ENDLESS = 10
"""Number of commands that `--dry-run` prints for an unbounded sweep."""
SAMPLE = 3
"""Number of points of a random or bayes sweep that are checked before it starts."""
PLAIN_WIDTH = 200


def sweep(
    file: Path,
    workers: int | None = None,
    gpus_per_run: int | None = None,
    cpus_per_run: int | None = None,
    retries: int = 0,
    executor: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    dry_run: bool = False,
    online: bool = False,
    output: Path = Path("runs"),
) -> int:
    """Run every point of a W&B sweep file.

    The runs go to `OUTPUT/<sweep name>/`. The same call resumes a sweep that ended early: finished points are kept,
    interrupted and failed runs resume from their last checkpoint, or start again in a new folder where there is none or
    where resuming failed. Nothing is deleted.

    Examples:
        symbreak sweep quickstart                           a laptop: as many runs at a time as there are cores
        symbreak sweep cifar10 --gpus-per-run 2             eight GPUs: four runs at a time on two GPUs each
        symbreak sweep cifar10 --executor ray --ray-address auto --output /shared/runs
                                                            a cluster: every machine of a running Ray cluster
        symbreak sweep cifar10 --online                     W&B: its server hands out the points; other machines
                                                            join by `symbreak agents ENTITY/PROJECT/SWEEP`

    Args:
        file: The W&B sweep file, or the name of one that comes with the project, such as quickstart.
        workers: Number of concurrent runs; by default one per group of GPUs, or per core if there is no GPU.
        gpus_per_run: GPUs visible to each run; by default 1 if there are GPUs. 0 hides them.
        cpus_per_run: CPU threads of each run; by default an equal share of the cores, and 1 on a Ray cluster.
        retries: Maximum number of restarts of a point in this call after its run crashed.
        executor: Where runs are executed: on this machine, or on a Ray cluster (`pip install 'symbreak[ray]'`).
        ray_address: Address of a running Ray cluster, or `auto`; by default a cluster on this machine is started.
        dry_run: Print the commands and start nothing.
        online: Register the sweep at W&B and run it through `wandb agent`, one per group of GPUs.
        output: Folder of all sweeps; with Ray, a folder that every machine of the cluster can access.

    Returns:
        The exit code: 0 if every run finished, 1 if one failed, 130 or 143 if interrupted.

    Raises:
        UsageError: If the file or an option is invalid: one line that names the file and key, before any run starts.
    """
    from symbreak.sweeps.engine.local import PRELOAD, ForkServer, LocalExecutor
    from symbreak.sweeps.engine.machine import check_counts
    from symbreak.sweeps.paths import shipped_sweep
    from symbreak.sweeps.search import check, sweep_file

    checked = sweep_file.load(shipped_sweep(file))
    check_counts(workers, gpus_per_run, cpus_per_run, retries)
    server = ForkServer(PRELOAD if checked.is_symbreak and not online else ())
    check.check_points(checked, _checked_points(checked), server.call)
    if dry_run:
        return _print_commands(checked, output / checked.name)
    if online:
        from symbreak.sweeps.engine import agents

        sweep_id = agents.register(checked.content, checked.name)
        print(f"Other machines join in by: symbreak agents {sweep_id}", flush=True)
        return agents.agents(sweep_id, workers, gpus_per_run)
    folder = output / checked.name

    def make(total: int | None) -> Executor:
        if executor == "ray":
            from symbreak.sweeps.engine.ray_cluster import RayExecutor

            return RayExecutor(ray_address, workers, gpus_per_run, cpus_per_run or 1, folder)
        return LocalExecutor(server, workers, gpus_per_run, cpus_per_run, total)

    return _drive(checked, folder, make, retries)


def _drive(checked: SweepFile, folder: Path, make: Callable[[int | None], Executor], retries: int) -> int:
    """Run a checked sweep to its end, as its only driver, and report on it."""
    from rich.console import Console

    from symbreak.sweeps.engine.driver import Driver
    from symbreak.sweeps.engine.lock import sole_driver
    from symbreak.sweeps.engine.progress import Progress
    from symbreak.sweeps.engine.study import Study
    from symbreak.sweeps.run.process import interrupted_by_sigterm

    console = Console()
    console = console if console.is_terminal else Console(width=PLAIN_WIDTH)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with sole_driver(folder):
        study = Study(checked, folder, say)
        if study.is_done():
            say(f"All {study.total} runs of sweep {checked.name} are done already.")
            return _conclude(study, folder, console)
        executor = make(study.total)
        progress = Progress(checked.name, folder, study.total, checked.metric, console)
        with interrupted_by_sigterm() as sigterms:
            try:
                with progress:
                    Driver(study, executor, retries, say).run(progress.show)
            except KeyboardInterrupt:
                again = shlex.join(["symbreak", *sys.argv[1:]])
                say(f"Interrupted. The same call goes on where this one ended: {again}")
                return 143 if sigterms else 130
        return _conclude(study, folder, console)


def _conclude(study: Study, folder: Path, console: Console) -> int:
    """Print the table of results, the errors and the paths; write the report; return the exit code."""
    from rich.text import Text

    from symbreak.sweeps.engine.progress import results
    from symbreak.sweeps.report.command import report

    console.print(results(study.points, folder, study.sweep.metric))
    failed = [point for point in study.points if point.status == "failed"]
    for point in failed:
        console.print(Text(f"{folder / point.folder} failed:\n{point.error}"), soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} runs failed. The same call tries them again.")
    values = [point.value for point in study.points if point.status == "finished"]
    is_blind = study.sweep.needs_metric and bool(values) and set(values) == {None}
    if is_blind:
        metric = study.sweep.metric["name"]
        console.print(f"No run logged a number as {metric!r}: nothing guided the sweep.", markup=False, soft_wrap=True)
    console.print(f"Runs are in {folder}. To start afresh, give another --output.", markup=False, soft_wrap=True)
    if any(point.status in ("finished", "pruned") for point in study.points):
        page = report([str(folder)], folder / "report.html")
        console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed or is_blind else 0


def _checked_points(sweep: SweepFile) -> list[dict[str, Any]]:
    from symbreak.sweeps.search.space import covering

    if not sweep.is_symbreak:
        return []
    return covering(sweep.parameters) if sweep.method == "grid" else first_points(sweep, SAMPLE)


def first_points(sweep: SweepFile, count: int) -> list[dict[str, Any]]:
    """Return a grid's first points, or the first that a random or bayes sweep draws."""
    from symbreak.sweeps.engine.study import Study

    study, drawn = Study(sweep, None), []
    while len(drawn) < count and (point := study.next()) is not None:
        point.status = "running"
        drawn.append(point.parameters)
    return drawn


def _print_commands(sweep: SweepFile, folder: Path) -> int:
    from symbreak.sweeps.search.sweep_file import expand_command

    is_endless = sweep.method != "grid" and not sweep.run_cap
    for parameters in first_points(sweep, ENDLESS if is_endless else sys.maxsize):
        print(shlex.join(expand_command(sweep, parameters, folder / "ARM" / "args.json")))
    if is_endless:
        print(f"... and so on without end; these are the first {ENDLESS}. `run_cap` ends a {sweep.method} sweep.")
    elif sweep.method == "bayes":
        print("The first points are random; later ones depend on results and will differ from these.")
    return 0
