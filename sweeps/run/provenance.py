"""Version and commit of the code of a run."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Code = dict[str, str | bool | None]
SOURCES = Path(__file__).resolve().parents[1]


def code_state() -> dict[str, Code]:
    """Return the package's version, and the commit of its checkout, as run.json keeps them."""
    return {"package": {"version": package_version()}, "git": git_state()}


def package_version() -> str | None:
    """Return the installed version of this package, None if it is not installed."""
    try:
        return version("symbreak")
    except PackageNotFoundError:
        return None


def git_state(folder: Path = SOURCES) -> Code:
    """Return the commit of the code that runs, and whether files differ from it; None outside a checkout.

    The repository must track the code. One that only contains the folder (because the package is installed in an
    environment inside it) does not count.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "cli.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
