"""Self-contained HTML pages: one base template, one stylesheet, one content security policy."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from symbreak.sweeps.paths import check_output

TEMPLATES = Path(__file__).with_name("templates")
MAX_TEXT = 20_000
"""Maximum number of characters of a text, except in blocks marked as `whole`; longer texts are cut."""


def render(template: str, *scripts: str, **content: Any) -> str:
    """Return a page made from a template of `sweeps/templates`, which extends `base.html`.

    Every text is escaped by Jinja2's autoescape. The content security policy allows the given scripts by their hashes
    and forbids all other active or external content.

    Args:
        template: File name, such as `report.html`.
        scripts: JavaScript code, in the order in which the page runs them.
        content: Variables of the template; `base.html` needs `title` and takes `facts`.
    """
    code = [script.replace("</script", r"<\/script") for script in scripts]
    return (
        _environment()
        .get_template(template)
        .render(
            content,
            policy=_policy(code),
            scripts=[Markup(script) for script in code],
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            made=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M %Z"),
        )
    )


def script(name: str) -> str:
    """Return the JavaScript code of a file in `sweeps/templates`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a browser never reads half a page.

    Raises:
        UsageError: If the file cannot be written.
    """
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _policy(code: list[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code]
    # Plotly's parallel coordinates compile their shaders' glue code, which needs unsafe-eval.
    allowed = " ".join([*(f"'sha256-{digest}'" for digest in hashes), "'unsafe-eval'"]) if hashes else "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"anchor": anchor, "json_text": _json_text, "whole": _whole}
    return environment


def anchor(name: str) -> str:
    """Return a text in the form of an element's id."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "section"


def _printable(value: Any) -> Any:
    """Cut long texts, and replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    if value is None or isinstance(value, Markup):
        return "" if value is None else value
    text = _encodable(str(value))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _whole(text: str) -> Markup:
    return Markup.escape(_encodable(text))


def _json_text(text: str) -> Markup:
    """Return JSON that cannot end the script element around it."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
