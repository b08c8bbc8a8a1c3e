"""Similarity of the features of two networks: centred kernel alignment (CKA)."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_gram(features: Tensor) -> Tensor:
    """Return the U-centred Gram matrix (N, N) of features (N, D), at least four rows, divided by its norm.

    Its diagonal is 0, and its rows sum to 0. It is zero for features that are equal for all images. The inner product
    of two such matrices is their debiased linear CKA.
    """
    x = features.double()
    x = x - x.mean(0)
    gram = (x @ x.T).fill_diagonal_(0)
    n = len(gram)
    rows = gram.sum(1) / (n - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    centred.fill_diagonal_(0)
    norm = centred.norm()
    return centred / norm if norm > 0 else centred


def cka(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Return the debiased linear CKA of each layer from the centred Gram matrices of two networks on the same images.

    It is 1 for features that are equal up to rotation and scale, and about 0 for independent features.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; the debiased
    estimator of Nguyen, Raghu, Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021.
    """
    return {layer: float((first[layer] * second[layer]).sum()) for layer in first if layer in second}


def grams(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the centred Gram matrix of each layer."""
    return {layer: centred_gram(values).to(torch.float64) for layer, values in features.items()}
