"""An inspected network as table cells, as sentences and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from symbreak.sweeps.inspection.layers import DEAD, LayerInspection

MEANINGS = {
    "layer": "dotted name",
    "weight": "shape: outputs x inputs per group x kernel",
    "distinct": "filters that differ in at least one bit, of all filters",
    "inputs": "the same for the inputs (columns)",
    "copies": "filters that point in the direction of another one",
    "dead": f"filters whose norm is below {DEAD:g} of the layer's largest",
    "asymmetry": "distance of the filters from their mean, relative to their norm (rms): 0 if all are equal",
    "forward": "mean correlation over pairs of filters: 1 if all are copies, near 0 if they differ",
    "backward": "the same over pairs of inputs (outgoing weights)",
    "kernel": "the same over all pairs of spatial kernels",
    "rank": "singular values above 1e-4 of the largest, of the largest rank that the shape allows",
    "effective": "effective rank: exp(entropy of the normalised singular values)",
    "stable": "stable rank: squared Frobenius norm by squared spectral norm",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
h1 {{ overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.poor td {{ background: #e8a30022; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .3rem 1rem; }}
li {{ overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
<p>{facts}</p>
<div class="wide">{table}</div>
<h2>Copies and dead filters</h2>
{findings}
<h2>What the columns mean</h2>
<dl>{meanings}</dl>
</body></html>
"""


def cells(layer: LayerInspection) -> dict[str, str]:
    """Return one layer's row by column."""
    outputs, inputs = layer.shape[:2]
    correlations = (layer.forward, layer.backward, layer.kernel)
    texts = (
        layer.name,
        "x".join(map(str, layer.shape)),
        f"{layer.distinct_filters}/{outputs}",
        f"{layer.distinct_inputs}/{inputs}",
        str(sum(len(group) - 1 for group in layer.copies)),
        str(len(layer.dead)),
        f"{layer.asymmetry:.3g}",
        *("-" if value != value else f"{value:.3f}" for value in correlations),
        f"{layer.numerical_rank}/{layer.largest_rank}",
        f"{layer.effective_rank:.1f}",
        f"{layer.stable_rank:.1f}",
    )
    return dict(zip(MEANINGS, texts, strict=True))


def findings(layers: Sequence[LayerInspection]) -> list[str]:
    """Return a sentence for each group of copies and each layer's dead filters, filters by name."""
    lines = []
    for layer in layers:
        lines += [f"{layer.name}: filters {_numbers(group)} are copies of one" for group in layer.copies]
        if layer.dead:
            lines.append(f"{layer.name}: dead filters {_numbers(layer.dead)}")
    return lines


def write_page(path: Path, target: str, layers: Sequence[LayerInspection]) -> None:
    """Write the page; every text in it is escaped, and no script may run."""
    superfluous, filters = sum(layer.superfluous for layer in layers), sum(layer.shape[0] for layer in layers)
    lines = "".join(f"<li>{escape(line)}</li>\n" for line in findings(layers))
    page = _PAGE.format(
        title=escape(f"Diversity of {target}"),
        facts=f"{len(layers)} layers, {filters} filters; {superfluous} of them are dead or copies of another one.",
        table=_html_table(layers),
        findings=f"<ul>\n{lines}</ul>" if lines else "<p>None.</p>",
        meanings="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in MEANINGS.items()),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _html_table(layers: Sequence[LayerInspection]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in MEANINGS)
    rows = []
    for layer in layers:
        kind = ' class="poor"' if layer.superfluous else ""
        rows.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(layer).values())}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table>"


def _numbers(indices: Sequence[int]) -> str:
    """Indices as text, runs of three or more as first-last."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in parts]
    return ", ".join(texts)
