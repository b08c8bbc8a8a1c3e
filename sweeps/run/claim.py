"""Claim a folder for a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.folder import ENGINE_FILES, STATE, latest_checkpoint


def given_dir() -> Path | None:
    """Return the folder that a sweep gives to its run, None outside a sweep."""
    if given := os.environ.get("SYMBREAK_RUN_DIR"):
        return Path(given)
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Path("runs", sweep, run) if sweep and run else None


@contextmanager
def claimed(path: Path | None, checkpoint: Path | None = None) -> Iterator[Path]:
    """Claim a run's folder, and release it if the `with` block fails before it writes anything.

    The claim is the exclusive creation of run.json, so two runs that start at once never share a folder.

    Args:
        path: The folder; None for a fresh one under ``runs/``, named by the time.
        checkpoint: The checkpoint from which a run goes on; into the folder that holds it, it may write.

    Raises:
        UsageError: If the folder holds another run, or cannot be written.
    """
    is_new = path is None
    path = _make_new() if path is None else path
    is_own = checkpoint is not None and path.resolve() in checkpoint.resolve().parents
    try:
        held = path.is_dir() and {entry.name for entry in path.iterdir()} - ENGINE_FILES
        if held and not is_own:
            raise UsageError(_refusal(path))
        path.mkdir(parents=True, exist_ok=True)
        mine = _create(path / STATE)
        if not mine and not is_own:
            raise UsageError(_refusal(path))
        (path / STATE).open("ab").close()
    except OSError as error:
        raise UsageError(f"run folder {path} cannot be written: {error.strerror}") from error
    try:
        yield path
    except BaseException:
        if mine and not (path / STATE).stat().st_size:
            (path / STATE).unlink()
            if is_new:
                path.rmdir()
        raise


def _create(file: Path) -> bool:
    try:
        file.open("xb").close()
    except FileExistsError:
        return False
    return True


def _make_new() -> Path:
    """Make and return an empty folder under ``runs/`` that no other run has."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
            path = Path("runs", stamp + suffix)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not Path("runs").is_dir():
                    raise
                continue
            return path
    except OSError as error:
        raise UsageError(f"run folder runs/{stamp} cannot be made: {error.strerror}; give another --run.dir") from error
    raise UsageError(f"a thousand runs are named runs/{stamp}; give another --run.dir")


def _refusal(path: Path) -> str:
    latest = latest_checkpoint(path)
    onward = f", or go on with it by --ckpt_path={latest}" if latest else ""
    return f"run folder {path} already holds a run; choose another --run.dir{onward}"
