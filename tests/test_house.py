"""Who may import whom, and how large a room may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("callbacks", "datamodules", "lightning_modules", "sweeps")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULE_LINES, BODY_LINES = 250, 40
MAY_IMPORT = {
    "callbacks/functional": {"callbacks/functional"},
    "callbacks/tracing": {"callbacks/tracing", "callbacks/functional"},
    "callbacks": {"callbacks"},
    "datamodules": {"datamodules"},
    "lightning_modules": {"lightning_modules"},
    "sweeps": set(FOLDERS),
}
"""Folders of this project that the files of a folder may import; the longest matching folder counts."""
SHARED_ROOMS = {"run"}
"""Rooms of `sweeps` that every other room may import."""
MADE_OF = {
    "engine": {"search", "report"},
    "report": {"audit", "compare"},
    "audit": {"report"},
    "compare": {"report"},
    "trace": {"audit"},
    "record": {"report"},
}
"""Rooms that a room's command is made of, beside the shared ones and itself."""


def imports(path):
    """Yield (line, module) for every import of this project in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("symbreak"):
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("symbreak"))


def within(folder, module):
    """Return whether a dotted module lies in a folder of the repository."""
    return f"{module}.".startswith(f"symbreak.{folder.replace('/', '.')}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_only(path):
    place = path.relative_to(ROOT).as_posix()
    rule = max((folder for folder in MAY_IMPORT if place.startswith(f"{folder}/")), key=len)
    wrong = [
        f"{place}:{line} imports {module}"
        for line, module in imports(path)
        if not any(within(folder, module) for folder in MAY_IMPORT[rule])
    ]
    room = place.split("/")[1] if place.count("/") > 1 and rule == "sweeps" else None
    if room:
        rooms = {entry.name for entry in (ROOT / "sweeps").iterdir() if (entry / "__init__.py").is_file()}
        others = rooms - SHARED_ROOMS - {room} - MADE_OF.get(room, set())
        wrong += [
            f"{place}:{line} imports {module} of another room"
            for line, module in imports(path)
            if any(within(f"sweeps/{other}", module) for other in others)
        ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MODULE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= BODY_LINES, f"{node.name} has {lines} lines"


def test_no_module_is_named_like_one_of_the_standard_library():
    names = {path.stem for path in FILES if not path.stem.startswith("__")}
    assert names & sys.stdlib_module_names == set()


def test_no_two_classes_share_a_name():
    seen = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                seen.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: places for name, places in seen.items() if len(places) > 1} == {}
