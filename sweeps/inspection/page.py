"""Table cells, sentences and page of an inspected network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from symbreak.sweeps import pages
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


def remarks(layers: Sequence[LayerInspection]) -> list[str]:
    """Return a sentence for each group of copies and each layer's dead filters, with the filters' names."""
    lines = []
    for layer in layers:
        lines += [f"{layer.name}: filters {_numbers(group)} are copies of one" for group in layer.copies]
        if layer.dead:
            lines.append(f"{layer.name}: dead filters {_numbers(layer.dead)}")
    return lines


def write_page(path: Path, target: str, layers: Sequence[LayerInspection], lines: Sequence[str]) -> None:
    """Write the page; ``lines`` are the sentences about single filters and copies."""
    superfluous, filters = sum(layer.superfluous for layer in layers), sum(layer.shape[0] for layer in layers)
    text = pages.render(
        "inspection.html",
        title=f"Diversity of {target}",
        facts=f"{len(layers)} layers, {filters} filters; {superfluous} of them are dead or copies of another one.",
        columns=list(MEANINGS),
        rows=[list(cells(layer).values()) for layer in layers],
        marked=[index for index, layer in enumerate(layers) if layer.superfluous],
        remarks=lines,
        meanings=list(MEANINGS.items()),
    )
    pages.write(path, text)


def _numbers(indices: Sequence[int]) -> str:
    """Return indices as text, runs of three or more as first-last."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in parts]
    return ", ".join(texts)
