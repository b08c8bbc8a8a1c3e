"""Pictures of figures, small enough for a repository."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from symbreak.sweeps.report.figures.style import Figure
from symbreak.sweeps.report.writing import save_pictures

COLORS = 256


def draw(figures: Sequence[Figure], folder: Path, room: int) -> list[Figure]:
    """Write figures as PNG files of a few colours, in order, as long as they fit; return those that were written.

    Without kaleido or without Chrome, write none and print one line on standard error.

    Args:
        figures: The figures.
        folder: Folder of the pictures.
        room: Maximum number of bytes of all pictures.
    """
    if not figures:
        return []
    if importlib.util.find_spec("kaleido") is None:
        print("recorded without pictures, which need kaleido: pip install kaleido", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as temporary:
        try:
            paths = save_pictures(list(figures), Path(temporary))
        except (RuntimeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"recorded without pictures: {reason}", file=sys.stderr)
            return []
        written = []
        for figure, path in zip(figures, paths, strict=True):
            small = folder / path.name
            with Image.open(path) as image:
                with_palette(image.convert("RGB")).save(small, optimize=True)
            if small.stat().st_size > room:
                small.unlink()
                continue
            room -= small.stat().st_size
            written.append(figure)
    return written


def with_palette(image: Image.Image) -> Image.Image:
    """Return an image in its own 256 most frequent colours, so that every line keeps its exact colour."""
    colors, counts = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_counts=True)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors[np.argsort(-counts, kind="stable")[:COLORS]].flatten().tolist())
    return image.quantize(palette=palette, dither=Image.Dither.NONE)
