"""`symbreak record`: turn a sweep's runs into a small folder of results."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.paths import check_output

RESULTS = Path("sweeps/results")


def record(
    runs: list[str],
    output: Path | None = None,
    command: str | None = None,
    findings: Path | None = None,
    supersede: str | None = None,
) -> Path:
    """Record the runs of a sweep as one folder of tables, figures and provenance, at most 1 MB.

    The folder holds runs.csv, history.csv.gz, provenance.json, a README.md with the report's findings and figures, and
    where there are any, equivalents.csv (the noise law) and ledger.csv. Histories are thinned, and keys of single
    layers left out. Figures need kaleido and Chrome or Chromium. If claims.yaml lies beside the folder, the figures
    that it names come first, and the README.md there is rewritten. No record is overwritten.

    Examples:
        symbreak record runs/noise_law                      into sweeps/results/noise_law
        symbreak record runs/noise_law -o results/law --supersede "five seeds instead of three"

    Args:
        runs: Folders of runs.
        output: The new folder; by default sweeps/results/<name of the first folder>.
        command: Command that made the runs; by default the recorded one of the sweep, or of each run outside a sweep.
        findings: Markdown file of remarks, copied to findings.md and into the README.md.
        supersede: Reason for replacing the record that is there; that is moved to superseded/NAME-DATE beside it.

    Returns:
        Path of the record.

    Raises:
        UsageError: If there is no run, the folder exists, the tables exceed 1 MB, claims.yaml cannot be read, or
            the folder cannot be written.
    """
    from symbreak.sweeps.record import claims, contents, writing
    from symbreak.sweeps.report.table import load_runs
    from symbreak.sweeps.report.writing import name_faults
    from symbreak.sweeps.run.process import interrupted_by_sigterm

    folders = [Path(run) for run in runs]
    target = Path(output) if output else RESULTS / folders[0].resolve().name
    remarks = _remarks(findings)
    if target.exists() and not supersede:
        raise UsageError(f'{target} exists and is not overwritten; to replace it give --supersede "the reason"')
    if not target.exists():
        check_output(target)
    table = load_runs(folders)
    if table.runs.empty:
        raise UsageError(f"no runs to record in {', '.join(runs)}")
    wanted = claims.figures_of(target.parent, target.name)
    name_faults(table)
    target.parent.mkdir(parents=True, exist_ok=True)
    with interrupted_by_sigterm(), TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        made = Path(temporary, "record")
        made.mkdir()
        call = command or contents.command_of(table)
        writing.write(made, target.name, table, call, remarks, wanted)
        if target.exists():
            _move_aside(target, str(supersede))
        made.rename(target)
    if (target.parent / claims.CLAIMS).is_file():
        try:
            claims.write_readme(target.parent)
        except UsageError as error:  # the record is complete
            print(f"{target.parent / claims.README} is not rewritten: {error}", file=sys.stderr)
    return target


def _remarks(path: Path | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file in UTF-8'}") from error


def _move_aside(target: Path, reason: str) -> None:
    """Move a record to superseded/NAME-DATE beside it, with the reason in a file."""
    base = target.parent / "superseded"
    base.mkdir(exist_ok=True)
    stem = f"{target.name}-{datetime.now(UTC).date().isoformat()}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    place = base / next(name for name in names if not (base / name).exists())
    shutil.move(target, place)
    (place / "superseded.md").write_text(f"Superseded: {reason}\n", encoding="utf-8")
