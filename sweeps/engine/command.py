"""The offline engine: one sweep file, many runs on this machine, or on several that share a store."""

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symbreak.sweeps.search.sweep_file import SweepFile

ENDLESS = 10
"""How many commands `--dry-run` prints of a sweep without end."""


def sweep(
    file: Path,
    workers: int | None = None,
    gpus_per_run: int | None = None,
    dry_run: bool = False,
    storage: str | None = None,
    online: bool = False,
    output: Path = Path("runs"),
) -> int:
    """Run every point of a W&B sweep file.

    The runs go to `OUTPUT/<sweep name>/`. Finished points are never repeated: the same call again goes on where the
    last one ended, and several calls at once share the work.

    Args:
        file: The W&B sweep file.
        workers: How many runs at a time; by default one per group of GPUs, or per core where there is no GPU.
        gpus_per_run: GPUs that each run sees; by default 1 where there are GPUs. 0 hides them.
        dry_run: Print the commands and start nothing.
        storage: A database URL or journal file that several machines share; by default a file beside the runs.
        online: Register the sweep at W&B and run it through `wandb agent`, one per group of GPUs.
        output: The folder of all sweeps.

    Returns:
        The exit code: 0 if every run finished, 1 if one failed, 130 if interrupted.

    Raises:
        UsageError: In one line that names the file and the key, before anything starts.
    """
    from symbreak.sweeps import paths
    from symbreak.sweeps.engine import agents, driver
    from symbreak.sweeps.engine.workers import ForkServer
    from symbreak.sweeps.errors import UsageError
    from symbreak.sweeps.search import check, sweep_file

    checked = sweep_file.load(paths.shipped(file))
    if workers is not None and workers < 1:
        raise UsageError(f"--workers: at least 1 is needed, not {workers}")
    folder = Path(output) / checked.name
    if dry_run:
        return _print_commands(checked, folder)
    if online:
        check.check_points(checked, ForkServer())
        sweep_id = agents.register(checked.content, checked.name)
        print(f"Other machines join in by: symbreak agents {sweep_id}", flush=True)
        return agents.agents(sweep_id, workers, gpus_per_run)
    code = driver.run(checked, workers, gpus_per_run, storage, folder)
    if code != driver.INTERRUPTED:
        _report(folder)
    return code


def _report(folder: Path) -> None:
    from symbreak.sweeps.report.command import report

    with contextlib.suppress(ValueError):  # not a single run has left anything to show
        print(f"Report: {report([str(folder)], folder / 'report.html')}")


def _print_commands(checked: "SweepFile", folder: Path) -> int:
    from symbreak.sweeps.engine.workers import PRELOAD, ForkServer
    from symbreak.sweeps.search import check
    from symbreak.sweeps.search.points import Point
    from symbreak.sweeps.search.sweep_file import expand_command

    check.check_points(checked, ForkServer(PRELOAD if checked.is_symbreak else ()))
    points = check.first_points(checked, checked.run_cap or ENDLESS)
    for number, parameters in enumerate(points, 1):
        json_file = Point("", number, parameters, "run").folder(folder) / "args.json"
        print(shlex.join(expand_command(checked, parameters, json_file)))
    if checked.method != "grid" and not checked.run_cap:
        print(f"... and so on without end; these are the first {ENDLESS}. `run_cap` ends a {checked.method} sweep.")
    elif checked.method == "bayes":
        print("The first points are random; later ones depend on results and will differ from these.")
    return 0
