"""`symbreak trace`: the operation that breaks a run's symmetry, or the first whose bits differ in a repeated run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output, page_beside
from symbreak.sweeps.run.arguments import prepare

if TYPE_CHECKING:
    from symbreak.callbacks.tracing import Event

DESCRIPTION = """\
Name the operation that first makes identical channels different: step, phase, module, operation, dtype, shape, and by
how many units in the last place. Takes every option of `symbreak fit`. Weights are counted exactly after every step;
the first steps, and each step in which more filters differ, are replayed under a tracer. With --repeat, --save or
--against it looks for the first operation whose bits differ between two runs instead; only hashes, names and shapes
are kept."""
TRACED = 3
RECORDED = 10


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="symbreak trace",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, help=f"updates to run (default: the config's; {RECORDED} with two runs)")
    parser.add_argument(
        "--traced-steps",
        type=int,
        default=TRACED,
        help="first steps that are traced in any case (default: %(default)s)",
    )
    parser.add_argument("--repeat", action="store_true", help="run twice, each in a process of its own, and compare")
    parser.add_argument("--save", type=Path, metavar="FILE", help="record a run for --against, here or elsewhere")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare a run with a recording of --save")
    parser.add_argument("--output", "-o", type=Path, help="JSON file, with a page beside it")
    parser.add_argument("--no-audit", action="store_true", help="do not audit the operations that are found")
    return parser


def main(args: list[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        UsageError: If the input is bad.
    """
    options, fit = _parser().parse_known_args(args)
    if sum((options.repeat, options.save is not None, options.against is not None)) > 1:
        raise UsageError("--repeat, --save and --against exclude each other")
    for name in ("steps", "traced_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    check_output(options.save, options.output, options.output and page_beside(options.output))
    if options.steps is not None:
        fit.append(f"--trainer.max_steps={options.steps}")
    if options.repeat or options.save or options.against:
        return _two_runs(options, fit)
    return _one_run(options, fit)


def _one_run(options: argparse.Namespace, fit: Sequence[str]) -> int:
    """Fit under SymmetryTrace."""
    import torch
    from pytorch_lightning.utilities import rank_zero_only
    from rich.console import Console

    from symbreak.callbacks import SymmetryTrace, environment
    from symbreak.sweeps.run.command import run
    from symbreak.sweeps.trace.rendering import table, verdict, write_json, write_page
    from symbreak.sweeps.trace.verdicts import audit_verdict

    watch = ["--symmetry_trace.replays=3", f"--symmetry_trace.traced_steps={options.traced_steps}"]
    watch += ["--symmetry_trace.follow=5", "--symmetry_trace.stop=true", "--run.test=false"]
    cli = run(prepare(["fit", *watch, *fit]))
    if rank_zero_only.rank != 0:
        return 0
    callbacks: Any = cli.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callback = next(each for each in callbacks if isinstance(each, SymmetryTrace))
    optimizer, ranks = type(cli.trainer.optimizers[0]).__name__, cli.trainer.world_size

    def judge(event: Event) -> str:
        return "-" if options.no_audit else audit_verdict(event, optimizer, ranks)

    found = verdict(callback, cli.trainer.global_step, judge)
    console = Console()
    if found.rows:
        console.print(table(found))
    print(found.sentence)
    path = options.output or cli.run_dir / "trace.json"
    facts = environment() | {"threads": torch.get_num_threads(), "run": str(cli.run_dir)}
    write_json(path, found, facts)
    write_page(page_beside(path), "What broke the symmetry?", found, facts)
    print(f"{path}, {path.with_suffix('.html')}")
    return 0


def _two_runs(options: argparse.Namespace, fit: list[str]) -> int:
    """Record one run, or compare two."""
    from symbreak.callbacks import environment
    from symbreak.sweeps.trace.divergence import compare, repeat
    from symbreak.sweeps.trace.recording import Recording, record
    from symbreak.sweeps.trace.rendering import write_json, write_page

    if options.save is not None and options.save.exists():
        raise UsageError(f"--save: {options.save} exists; choose another name")
    saved = Recording.read(options.against) if options.against is not None else None
    if not any(option.startswith("--trainer.max_steps") for option in fit):
        steps = len(saved.weights) - 1 if saved is not None else RECORDED
        fit = [*fit, f"--trainer.max_steps={steps}"]
    with tempfile.TemporaryDirectory(prefix="symbreak-trace-") as folder:
        place = Path(folder)
        if options.save is not None:
            record(fit, place / "run", 0, sys.maxsize).write(options.save)
            print(options.save)
            return 0
        if saved is None:
            found = repeat(fit, place, options.traced_steps)
        else:
            found = compare(
                saved, record(fit, place / "run", min(saved.steps, default=0), max(saved.steps, default=0) + 1)
            )
    print(found)
    if options.output is not None:
        facts = {f"this run: {key}": value for key, value in environment().items()}
        facts |= {f"saved run: {key}": value for key, value in (saved.environment if saved else {}).items()}
        write_json(options.output, found, facts)
        write_page(page_beside(options.output), "Where do two runs differ first?", found, facts)
        print(f"{options.output}, {page_beside(options.output)}")
    return 0
