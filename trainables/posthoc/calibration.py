"""Similarity calibration: raises the scores of expressions that are common (arXiv 2312.16245, sec. 3.4).

Shapes: E expressions of a test video, K training expressions, D width of a text feature, S settings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def expression_prior(feature_ED: ArrayLike, train_KD: ArrayLike, share_K: ArrayLike, tau: ArrayLike) -> Floats:
    """How common each expression is, judged by the training expressions that it resembles.

    Cosine similarities (the features have length 1) are stretched to 0..1 and weighed by softmax(tau * sim);
    the prior is the so weighted mean of `share_K`, each training expression's share of all positive boxes.
    One `tau` gives E priors, S of them S x E.
    """
    sim_EK = np.asarray(feature_ED, np.float64) @ np.asarray(train_KD, np.float64).T
    low, high = sim_EK.min(1, keepdims=True), sim_EK.max(1, keepdims=True)
    sim_EK = (sim_EK - low) / np.maximum(high - low, 1e-12)
    taus = np.asarray(tau, np.float64)
    # the largest similarity is 1 after stretching: subtracting tau keeps exp in range
    weight = np.exp(taus[..., None, None] * (sim_EK - 1))
    return (weight * np.asarray(share_K, np.float64)).sum(-1) / weight.sum(-1)


def threshold_of(prior: Floats, a: ArrayLike, threshold: ArrayLike) -> Floats:
    """The raw score above which a box is kept: `score + a * prior > threshold`.

    The published b is redundant: it moves the threshold.
    """
    return np.asarray(threshold, np.float64)[..., None] - np.asarray(a, np.float64)[..., None] * prior
