"""HOTA of thousands of thresholds at once: tabulate once, then look up and add.

For a threshold per (video, expression) pair HOTA needs true positives, boxes and sum of n^2/(n_g + n_p - n)
over (object, track) of each pair. They are tabulated at 64 score levels, with tracker boxes matched to all
ground truth once per frame (TrackEval matches anew for each pair and prefers consistent identities, which
changes little; the exact metric decides between the best few).

Shapes: P pairs, V score levels, A alphas, S settings, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.tracking import ALPHAS, Boxes, Matches

LEVELS = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """A (video, expression) pair as the table takes it; N tracker boxes of the video."""

    tracked: Boxes
    matches: Matches  # of all tracker boxes with all objects of the video
    object_N: NDArray[np.int64]  # id of the matched object, -1 for none
    fits_N: NDArray[np.bool_]  # whether that object is referred to in that frame
    truth_ids: NDArray[np.int64]  # one a ground-truth box of the pair
    score_N: Floats


@dataclass(frozen=True, slots=True)
class HotaTable:
    """Sums of every pair at every level; level v keeps boxes that score above `level_V[v]`."""

    level_V: Floats  # ascending
    hits_PVA: Floats  # true positives
    boxes_PV: Floats  # kept
    quality_PVA: Floats  # sum of n^2 / (n_g + n_p - n)
    truth: float  # ground-truth boxes of all pairs

    def hota(self, threshold_SP: Floats) -> Floats:
        """HOTA in percent of S settings, each a threshold per pair."""
        between_V = (self.level_V[1:] + self.level_V[:-1]) / 2
        level_SP = np.searchsorted(between_V, threshold_SP)  # the nearest
        pairs, levels = self.boxes_PV.shape
        flat_SP = level_SP + np.arange(pairs) * levels
        flat = (pairs * levels, len(ALPHAS))
        hits, quality = self.hits_PVA.reshape(flat), self.quality_PVA.reshape(flat)
        hota_S = np.empty(len(threshold_SP))
        for start in range(0, len(threshold_SP), 256):
            at = flat_SP[start : start + 256]
            tp_SA, q_SA = hits[at].sum(1), quality[at].sum(1)
            boxes_S1 = self.boxes_PV.reshape(-1)[at].sum(1)[:, None]
            det_SA = tp_SA / np.maximum(boxes_S1 + self.truth - tp_SA, 1)
            ass_SA = q_SA / np.maximum(tp_SA, 1)
            hota_S[start : start + 256] = 100 * np.sqrt(det_SA * ass_SA).mean(1)
        return hota_S


def tabulate(pairs: Sequence[Pair]) -> HotaTable:
    """The table of some pairs; levels are quantiles, half of them of the scores of boxes that fit: those are few,
    and good thresholds lie among them."""
    score = np.concatenate([np.zeros(0), *(p.score_N for p in pairs)])
    good = np.concatenate([np.zeros(0), *(p.score_N[p.fits_N] for p in pairs)])
    half = LEVELS // 2
    level_V = np.quantile(score, np.linspace(0, 1, half - 1)) if len(score) else np.zeros(1)
    if len(good):
        level_V = np.concatenate([level_V, np.quantile(good, np.linspace(0, 1, half))])
    level_V = np.unique(level_V)
    level_V = np.concatenate([[level_V[0] - 1], level_V])
    rows = [_sums(pair, level_V) for pair in pairs]
    return HotaTable(
        level_V,
        np.array([r[0] for r in rows]).reshape(len(pairs), len(level_V), len(ALPHAS)),
        np.array([r[1] for r in rows]).reshape(len(pairs), len(level_V)),
        np.array([r[2] for r in rows]).reshape(len(pairs), len(level_V), len(ALPHAS)),
        float(sum(len(p.truth_ids) for p in pairs)),
    )


def _sums(pair: Pair, level_V: Floats) -> tuple[Floats, Floats, Floats]:
    levels, alphas = len(level_V), len(ALPHAS)
    # a box is kept at levels below the first one that is not exceeded by its score
    kept_N = np.searchsorted(level_V, pair.score_N, side="left")
    track_N = np.unique(pair.tracked.id_N, return_inverse=True)[1] if len(pair.tracked) else np.zeros(0, np.int64)
    boxes_JV = _counts(track_N, kept_N, int(track_N.max(initial=-1)) + 1, levels)
    hit_rows = np.flatnonzero(pair.fits_N)
    if not len(hit_rows):
        zero = np.zeros((levels, alphas))
        return zero, boxes_JV.sum(0), zero
    combos, combo = np.unique(np.stack([pair.object_N[hit_rows], track_N[hit_rows]]), axis=1, return_inverse=True)
    combo = combo.reshape(-1)
    # alphas below the IoU count the box
    alpha_N = np.searchsorted(ALPHAS - np.finfo(float).eps, pair.matches.iou_N[hit_rows], side="right")
    n_UVA = np.zeros((combos.shape[1], levels + 1, alphas + 1))
    np.add.at(n_UVA, (combo, kept_N[hit_rows], alpha_N), 1)
    n_UVA = n_UVA[:, ::-1, ::-1].cumsum(1).cumsum(2)[:, ::-1, ::-1][:, 1:, 1:]
    ids, count = np.unique(pair.truth_ids, return_counts=True)
    n_g = count[np.searchsorted(ids, combos[0])]
    n_p_UV = boxes_JV[combos[1]]
    union_UVA = n_g[:, None, None] + n_p_UV[..., None] - n_UVA
    return n_UVA.sum(0), boxes_JV.sum(0), (n_UVA**2 / np.maximum(union_UVA, 1)).sum(0)


def _counts(row_N: NDArray[np.int64], kept_N: NDArray[np.int64], rows: int, levels: int) -> Floats:
    """How many boxes of each row are kept at each level."""
    counts = np.zeros((rows, levels + 1))
    np.add.at(counts, (row_N, kept_N), 1)
    return counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
