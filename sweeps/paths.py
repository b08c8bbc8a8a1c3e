"""Files that come with the project, found from any working directory."""

from __future__ import annotations

from pathlib import Path

_PARENT = Path(__file__).resolve().parent.parent


def shipped(path: str | Path) -> Path:
    """Return ``path`` if it exists, else the file of that relative path that comes with the project, if there is one.

    ``sweeps/configs/digits.yaml`` is thereby found wherever a command is started and however the project is installed.
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("sweeps",) or not (_PARENT / path).is_file():
        return path
    return _PARENT / path


def shipped_sweep(path: str | Path) -> Path:
    """Return a sweep file, which may be named without folder and suffix where it comes with the project."""
    path = Path(path)
    named = _PARENT / "sweeps" / f"{path.name}.yaml"
    return named if not path.exists() and len(path.parts) == 1 and named.is_file() else shipped(path)


def with_shipped_configs(args: list[str]) -> list[str]:
    """Return a command line with the file of every ``--config FILE`` or ``--config=FILE`` replaced by `shipped`'s."""
    found = list(args)
    for place, word in enumerate(args):
        if word.startswith("--config="):
            found[place] = f"--config={shipped(word.removeprefix('--config='))}"
        elif place and args[place - 1] == "--config":
            found[place] = str(shipped(word))
    return found
