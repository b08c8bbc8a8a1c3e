"""Files that come with the project, found from any working directory, and files that commands write."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from symbreak.sweeps.errors import UsageError, nearest

_PARENT = Path(__file__).resolve().parent.parent
_CONFIGS = _PARENT / "sweeps" / "configs"


def shipped(path: str | Path) -> Path:
    """Return ``path`` if it exists, else the file of that relative path that comes with the project, if there is one.

    So ``sweeps/configs/digits.yaml`` is found from any working directory and for any kind of installation.
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("sweeps",) or not (_PARENT / path).is_file():
        return path
    return _PARENT / path


def shipped_sweep(path: str | Path) -> Path:
    """Return a sweep file; one that comes with the project may be named without folder and suffix."""
    path = Path(path)
    named = _PARENT / "sweeps" / f"{path.name}.yaml"
    return named if not path.exists() and len(path.parts) == 1 and named.is_file() else shipped(path)


def sweep_argument(path: Path) -> str:
    """Return how `symbreak sweep` names a sweep file: its path, or its stem if it comes with the project."""
    return path.stem if path == _PARENT / "sweeps" / path.name else str(path)


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the project by name: ``digits``, ``arms/he``."""
    return {path.relative_to(_CONFIGS).with_suffix("").as_posix(): path for path in sorted(_CONFIGS.rglob("*.yaml"))}


def shipped_results() -> Path:
    """Return the folder of the results that come with the project."""
    return _PARENT / "sweeps" / "results"


def config_file(name: str) -> Path:
    """Return the file of ``--config NAME``, where NAME is a path or the name of a shipped config.

    Raises:
        UsageError: If there is neither.
    """
    if not name:
        raise UsageError("config: the name is empty")
    path = shipped(name)
    known = shipped_configs()
    if path.exists() or name not in known:
        if not path.exists():
            hint = nearest(name, known) or f"; shipped are {', '.join(known)}"
            raise UsageError(f"config {name!r} is neither a file nor the name of a shipped config{hint}")
        return path
    return known[name]


def check_output(*paths: Path | None) -> None:
    """Check that files can be written, before the work whose results they receive; create nothing.

    Raises:
        UsageError: If two paths are equal, or a path is a folder or a device, is write-protected, or its folder cannot
            be made or written to.
    """
    given = [Path(each) for each in paths if each is not None]
    if len({path.absolute() for path in given}) < len(given):
        raise UsageError(f"{given[0]} is named for two files")
    for path in given:
        try:
            if path.exists() and not path.is_file():
                raise UsageError(
                    f"{path} cannot be written: it is {'a folder' if path.is_dir() else 'no regular file'}"
                )
            if path.exists() and not os.access(path, os.W_OK):
                raise UsageError(f"{path} cannot be written: it is write-protected")
            folder = next(each for each in path.absolute().parents if each.exists())
            if not folder.is_dir():
                raise UsageError(f"{path} cannot be written: {folder} is a file, not a folder")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            tempfile.TemporaryFile(dir=folder).close()  # access rights do not tell: root has them in /proc too
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {folder} takes no files ({error.strerror})") from error


def page_beside(output: Path) -> Path:
    """Return the page that accompanies a JSON file.

    Raises:
        UsageError: If the file has the name of the page.
    """
    if output.suffix == ".html":
        raise UsageError(f"{output}: expected the name of a JSON file; the page beside it gets this name")
    return output.with_suffix(".html")


def import_from_here() -> None:
    """Append the current folder to the import path, so that class paths can name its modules."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
