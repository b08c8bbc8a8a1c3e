"""Predictions of runs on one test set: churn, and agreement beyond accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from symbreak.callbacks.snapshot_files import LOGITS


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run on its test set.

    Attributes:
        classes: Predicted class of each image, (N,).
        labels: True class of each image, (N,).
        count: Number of classes.
    """

    classes: np.ndarray
    labels: np.ndarray
    count: int

    @property
    def accuracy(self) -> float:
        """Share of images that were predicted correctly."""
        return float((self.classes == self.labels).mean())


def read_predictions(folder: Path) -> Predictions | None:
    """Return the predictions that a run has kept, or None if there are none or the file is incomplete."""
    try:
        with np.load(folder / LOGITS, allow_pickle=False) as kept:
            return Predictions(kept["predictions"], kept["labels"], kept["logits"].shape[1])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def churn(first: Predictions, second: Predictions) -> float:
    """Return the share of test images on which two runs predict different classes.

    Raises:
        ValueError: If their test sets differ.
    """
    if not np.array_equal(first.labels, second.labels):
        raise ValueError("the runs were tested on different images")
    return float((first.classes != second.classes).mean())


def binomial_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial (Clopper-Pearson) interval of a share observed on ``count`` images."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * count), count).proportion_ci(confidence)
    return float(low), float(high)


def independent_churn(first: float, second: float, classes: int) -> float:
    """Return the churn expected of two runs of given accuracies whose errors are independent and spread evenly.

    Both correct, or both wrong with the same of the k - 1 wrong classes: 1 - a b - (1 - a)(1 - b) / (k - 1).
    """
    return 1 - first * second - (1 - first) * (1 - second) / max(classes - 1, 1)


def error_consistency(first: Predictions, second: Predictions) -> float:
    """Return Cohen's kappa of being correct: 0 for independent errors, 1 for the same ones; NaN where undefined.

    (observed - expected) / (1 - expected), with expected = a b + (1 - a)(1 - b).

    Source: Geirhos, Meding, Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
    measuring error consistency", NeurIPS 2020.
    """
    mine, theirs = first.classes == first.labels, second.classes == second.labels
    a, b = mine.mean(), theirs.mean()
    expected = a * b + (1 - a) * (1 - b)
    return float(((mine == theirs).mean() - expected) / (1 - expected)) if expected < 1 else float("nan")
