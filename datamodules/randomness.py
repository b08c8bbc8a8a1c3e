"""Random draws as a pure function of (seed, epoch, purpose, sample index)."""

import numpy as np


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Return the random generator for one purpose in one epoch.

    Each purpose has its own stream: enabling one augmentation does not change the others. A draw of shape (N, ...) is
    filled in order, so entry i depends only on (seed, epoch, purpose, i).

    Args:
        seed: Seed of the run, not negative.
        epoch: Epoch, counted from 0.
        purpose: Name of the stream, e.g. "order".
    """
    return np.random.default_rng([seed, epoch, int.from_bytes(purpose.encode(), "big")])


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples, holding out the same share of every class.

    Args:
        labels: Class of each sample, shape (N,).
        fraction: Share of each class that is held out, rounded to whole samples.
        seed: Seed of the split.

    Returns:
        Indices of the remaining and of the held-out samples, both ascending.
    """
    rng = generator(seed, 0, "split")
    members = (np.flatnonzero(labels == label) for label in np.unique(labels))
    held_out = np.concatenate([rng.permutation(rows)[: round(fraction * len(rows))] for rows in members])
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)
