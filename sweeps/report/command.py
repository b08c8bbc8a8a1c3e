"""`symbreak report`: one HTML page about runs, with optional tables and pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output


def report(
    runs: list[str],
    output: Path = Path("report.html"),
    csv: Path | None = None,
    parquet: Path | None = None,
    png: Path | None = None,
    watch: bool = False,
    interval: float = 10.0,
) -> Path:
    """Write a self-contained HTML report of runs.

    Args:
        runs: Folders of runs (a sweep, several, or a single run), JSON files of `symbreak audit`, or
            wandb:ENTITY/PROJECT for runs on a W&B server.
        output: HTML page to write.
        csv: Also write the table of runs here, and their history beside it.
        parquet: The same as Parquet (needs pyarrow).
        png: Also write each figure as a picture into this folder (needs kaleido).
        watch: Rewrite the page as runs progress, until interrupted; the page reloads itself.
        interval: Seconds between two reads of the runs.

    Returns:
        Path of the page.

    Raises:
        UsageError: If no run is found, an argument is of an unknown kind, an optional package is missing, or a file
            cannot be written.
    """
    from symbreak.sweeps.report import writing
    from symbreak.sweeps.report.table import save

    exports = [(csv, ".csv"), (parquet, ".parquet")]
    _check(exports, png, interval)
    check_output(output, csv, parquet, png and Path(png) / "figure.png")
    inputs, output = writing.ReportInputs(runs), Path(output)
    if watch:
        writing.watch(inputs, output, interval)
    table, figures, audits = inputs.load()
    if table.runs.empty and not table.skipped and not audits:
        raise UsageError(f"no runs in {', '.join(map(str, runs))}")
    writing.name_faults(table)
    writing.write_page(output, writing.compose(table, figures, audits))
    for path, _ in exports:
        if path is not None:
            save(table, Path(path))
    if png is not None:
        writing.save_pictures(figures, Path(png))
    return output


def _check(exports: list[tuple[Path | None, str]], png: Path | None, interval: float) -> None:
    """Validate options first."""
    if interval <= 0:
        raise UsageError(f"interval must be positive, got {interval:g} s")
    for path, suffix in exports:
        if path is not None and Path(path).suffix != suffix:
            raise UsageError(f"{path}: expected a name that ends in {suffix}")
    if png is not None and importlib.util.find_spec("kaleido") is None:
        raise UsageError("pictures need kaleido: pip install kaleido")
