"""`symbreak audit`: test every operation of a training step for repeatability and symmetry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from symbreak.callbacks.modes import Mode
from symbreak.sweeps.audit.cases import Device, Finding, MemoryFormat, Precision
from symbreak.sweeps.errors import UsageError, nearest
from symbreak.sweeps.paths import check_output, page_beside


@dataclass(frozen=True)
class Audit:
    """All findings and their provenance.

    Args:
        provenance: Versions, device, threads, switches of each mode, commit, date and duration.
        findings: One row per case.
        files: Files written.
    """

    provenance: dict[str, Any]
    findings: list[Finding]
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{len(self.findings)} cases: {', '.join(map(str, self.files))}"


def audit(
    device: Device = "cpu",
    output: Path = Path("runs/audit.json"),
    operations: tuple[str, ...] = ("*",),
    precisions: tuple[Precision, ...] = ("float64", "float32", "tfloat32", "bfloat16", "float16"),
    memory_formats: tuple[MemoryFormat, ...] = ("contiguous", "channels_last"),
    modes: tuple[Mode, ...] = ("nondeterministic", "cudnn", "strict"),
    shapes: tuple[str, ...] = ("8x16x8x8", "8x17x8x8", "8x64x8x8", "8x67x7x7"),
    world_sizes: tuple[int, ...] = (2, 3, 4, 8),
    repeats: int = 4,
) -> Audit:
    """Test which operations are repeatable and which are symmetric on this machine.

    An operation is repeatable if it returns the same bits again, also for inputs at other addresses and after other
    work. It is symmetric if identical input channels give identical output channels. A deterministic kernel can be
    repeatable and not symmetric: it may treat channels that do not fill a vector register differently, in the same way
    every time. Each thread of a parallel loop has its own remainder, so results depend on the number of threads.
    The terminal shows a summary; OUTPUT receives every case as JSON, with an HTML page beside it.

    Args:
        device: Device to test. On cuda each mode runs in its own process, and reductions use NCCL over all GPUs.
        output: JSON file to write; the page gets the suffix .html.
        operations: Names or patterns, such as '[conv3x3_*, all_reduce_*]'.
        precisions: Dtypes; tfloat32 is float32 with TF32 multiplications allowed, which only CUDA devices have.
        memory_formats: Memory formats of images and filters.
        modes: Determinism modes; each is set for a case and restored afterwards.
        shapes: Images as batch x channels x height x width. Filters are channels x channels; odd channel counts leave a
            remainder in every vectorised loop. Reductions use channels x 9 channels.
        world_sizes: Numbers of ranks of the reductions: gloo processes on the CPU, GPUs with NCCL on cuda.
        repeats: Repetitions after the first run, half of them after other work.

    Returns:
        Provenance and one finding per case.

    Raises:
        UsageError: If there is no CUDA device, a pattern matches no operation, a shape cannot be read, repeats < 2,
            or OUTPUT cannot be written.
    """
    from rich.console import Console
    from rich.progress import track

    from symbreak.sweeps.audit import records, rendering
    from symbreak.sweeps.audit.evaluation import evaluate, evaluate_reductions, group_cases, process_for
    from symbreak.sweeps.audit.operations import OPERATIONS
    from symbreak.sweeps.audit.reduction import REDUCTIONS

    names = _select([*OPERATIONS, *REDUCTIONS], operations)
    _check(device, shapes, world_sizes, repeats)
    page = page_beside(output)
    check_output(output, page)
    started, console = time.monotonic(), Console()
    groups = group_cases([name for name in names if name in OPERATIONS], precisions, memory_formats, shapes)
    findings: list[Finding] = []
    for mode in modes:
        with process_for(device) as mapped:
            rows = mapped(partial(evaluate, device, mode, repeats), groups)
            for row in track(rows, f"Mode {mode}", len(groups), console=console):
                findings += row
    with console.status("Reductions"):
        reductions = [name for name in names if name in REDUCTIONS]
        findings += evaluate_reductions(device, reductions, shapes, precisions, world_sizes)
    findings = list(dict.fromkeys(findings))  # unsupported cases do not depend on the mode
    provenance = _provenance(device, modes, repeats, time.monotonic() - started)
    records.write(output, provenance, findings)
    rendering.write_html(page, provenance, findings)
    console.print(rendering.summary_table(findings), rendering.LEGEND)
    return Audit(provenance, findings, (output, page))


def _select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise UsageError(
                f"operations: {pattern!r} matches none{nearest(pattern, names) or '; there are ' + ', '.join(names)}"
            )
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _check(device: Device, shapes: Sequence[str], world_sizes: Sequence[int], repeats: int) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: there is no CUDA device here; allowed: cpu")
    for shape in shapes:
        sizes = shape.split("x")
        if len(sizes) != 4 or not all(size.isdecimal() and int(size) > 1 for size in sizes):
            raise UsageError(f"shapes: {shape!r} is not batch x channels x height x width, such as 8x16x8x8")
    if repeats < 2 or min(world_sizes, default=2) < 2:
        raise UsageError(f"repeats={repeats} and world_sizes={list(world_sizes)} must be 2 or more")


def _provenance(device: Device, modes: Sequence[Mode], repeats: int, seconds: float) -> dict[str, Any]:
    from symbreak.callbacks import environment
    from symbreak.callbacks.determinism import mode_switches
    from symbreak.sweeps.run.provenance import git_state

    return {
        "audited": device,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "repeats": repeats,
        "git": git_state(),
        "environment": environment(),
        "switches": {mode: mode_switches(mode) for mode in modes},
    }
