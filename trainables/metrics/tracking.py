"""Tracking metrics on arrays: TrackEval's HOTA, CLEAR and IDF1, and how well pairs are told apart.

A sequence of Refer-KITTI is one (video, expression) pair; figures are combined over pairs as TrackEval does.
Figures are in percent.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ALPHAS = np.arange(0.05, 0.99, 0.05)  # HOTA's 19 localisation thresholds


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes with identities: frame numbers, ids, corners x1, y1, x2, y2 in pixels."""

    frame_N: Ints
    id_N: Ints
    xyxy_N4: Floats

    def __len__(self) -> int:
        return len(self.frame_N)

    def take(self, mask: NDArray[Any]) -> Boxes:
        """The rows of a mask or an index."""
        return Boxes(self.frame_N[mask], self.id_N[mask], self.xyxy_N4[mask])


def iou(a_N4: Floats, b_M4: Floats) -> Floats:
    """Intersection over union of corner boxes, N x M."""
    low = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), -1)
    area_a, area_b = (np.prod(box[:, 2:] - box[:, :2], -1) for box in (a_N4, b_M4))
    return inter / np.maximum(area_a[:, None] + area_b[None] - inter, 1e-12)


@dataclass(frozen=True, slots=True)
class Matches:
    """For each of N tracker boxes the ground-truth box of its frame that it stands for."""

    row_N: Ints  # row of the ground truth, -1 for none
    iou_N: Floats


def match(tracked: Boxes, truth: Boxes) -> Matches:
    """Matches boxes one to one in each frame so that the summed IoU is largest."""
    row_N, iou_N = np.full(len(tracked), -1), np.zeros(len(tracked))
    in_frame = _rows_by_frame(truth.frame_N)
    for frame, mine in _rows_by_frame(tracked.frame_N).items():
        theirs = in_frame.get(frame)
        if theirs is None:
            continue
        overlap = iou(tracked.xyxy_N4[mine], truth.xyxy_N4[theirs])
        a, b = linear_sum_assignment(-overlap)
        good = overlap[a, b] > 0
        row_N[mine[a[good]]] = theirs[b[good]]
        iou_N[mine[a[good]]] = overlap[a, b][good]
    return Matches(row_N, iou_N)


def _rows_by_frame(frame_N: Ints) -> dict[int, Ints]:
    if not len(frame_N):
        return {}
    order = np.argsort(frame_N, kind="stable")
    frames, starts = np.unique(frame_N[order], return_index=True)
    return {int(f): rows for f, rows in zip(frames, np.split(order, starts[1:]), strict=True)}


@dataclass(frozen=True, slots=True)
class Sequence2D:
    """One (video, expression) pair: the boxes that a model gives it, and those of the ground truth."""

    predicted: Boxes
    truth: Boxes


def hota(sequences: Sequence[Sequence2D]) -> dict[str, float]:
    """hota, deta, assa (means over alpha) combined over sequences (arXiv 2009.07736).

    The same figures as TrackEval's, whose loops over frames and alphas in Python take six times as long.
    """
    hits_A, quality_A, boxes, truths = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS)), 0, 0
    for sequence in sequences:
        boxes += len(sequence.predicted)
        truths += len(sequence.truth)
        hits, quality = _hota_sums(sequence)
        hits_A += hits
        quality_A += quality
    det_A = hits_A / np.maximum(boxes + truths - hits_A, 1)
    ass_A = quality_A / np.maximum(hits_A, 1)
    figures = {"hota": np.sqrt(det_A * ass_A), "deta": det_A, "assa": ass_A}
    return {name: 100 * float(values.mean()) for name, values in figures.items()}


def _hota_sums(sequence: Sequence2D) -> tuple[Floats, Floats]:
    """True positives and their summed association quality n^2 / (n_t + n_p - n) at each alpha."""
    if not len(sequence.predicted) or not len(sequence.truth):
        return np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    ids_t, number_t, count_t = np.unique(sequence.truth.id_N, return_inverse=True, return_counts=True)
    ids_p, number_p, count_p = np.unique(sequence.predicted.id_N, return_inverse=True, return_counts=True)
    rows_t, rows_p = _rows_by_frame(sequence.truth.frame_N), _rows_by_frame(sequence.predicted.frame_N)
    shared = [(rows_t[f], rows_p[f]) for f in rows_t.keys() & rows_p.keys()]
    overlaps = [iou(sequence.truth.xyxy_N4[t], sequence.predicted.xyxy_N4[p]) for t, p in shared]
    together = np.zeros((len(ids_t), len(ids_p)))
    for (t, p), overlap in zip(shared, overlaps, strict=True):
        total = overlap.sum(0)[None] + overlap.sum(1)[:, None] - overlap
        together[np.ix_(number_t[t], number_p[p])] += np.where(
            total > np.finfo(float).eps, overlap / np.maximum(total, 1e-12), 0
        )
    aligned = together / (count_t[:, None] + count_p[None] - together)
    matched: list[tuple[Ints, Ints, Floats]] = []  # ids of object and track, IoU; of each frame
    for (t, p), overlap in zip(shared, overlaps, strict=True):
        a, b = linear_sum_assignment(-aligned[np.ix_(number_t[t], number_p[p])] * overlap)
        matched.append((number_t[t[a]], number_p[p[b]], overlap[a, b]))
    if not matched:
        return np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    t_M, p_M, iou_M = (np.concatenate(parts) for parts in zip(*matched, strict=True))
    combos, combo_M = np.unique(t_M * len(ids_p) + p_M, return_inverse=True)
    alpha_M = np.searchsorted(ALPHAS - np.finfo(float).eps, iou_M, side="right")
    n_UA = np.zeros((len(combos), len(ALPHAS) + 1))
    np.add.at(n_UA, (combo_M, alpha_M), 1)
    n_UA = n_UA[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    union_U = count_t[combos // len(ids_p)] + count_p[combos % len(ids_p)]
    return n_UA.sum(0), (n_UA**2 / (union_U[:, None] - n_UA)).sum(0)


def trackeval_scores(
    sequences: Sequence[Sequence2D], names: Sequence[str] = ("HOTA", "CLEAR", "Identity")
) -> dict[str, float]:
    """hota, deta, assa (means over alpha), and mota and idf1 where asked, combined over sequences.

    Computed by the `trackeval` package, whose classes take arrays. All are 0 of no sequence.
    """
    if not sequences:
        keys = {"HOTA": ("hota", "deta", "assa"), "CLEAR": ("mota",), "Identity": ("idf1",)}
        return {key: 0.0 for name in names for key in keys[name]}
    with contextlib.redirect_stdout(io.StringIO()):
        from trackeval import metrics

        made = {name: getattr(metrics, name)(*([{"PRINT_CONFIG": False}] if name != "HOTA" else [])) for name in names}
    data = [_as_trackeval(s) for s in sequences]
    figures: dict[str, float] = {}
    for name, metric in made.items():
        each = {str(i): metric.eval_sequence(d) for i, d in enumerate(data)}
        total = metric.combine_sequences(each)
        if name == "HOTA":
            figures |= {
                key: 100 * float(np.mean(total[key.upper() if key == "hota" else key.capitalize()[:-1] + "A"]))
                for key in ("hota", "deta", "assa")
            }
        elif name == "CLEAR":
            figures["mota"] = 100 * float(total["MOTA"])
        else:
            figures["idf1"] = 100 * float(total["IDF1"])
    return figures


def _as_trackeval(sequence: Sequence2D) -> dict[str, Any]:
    predicted, truth = sequence.predicted, sequence.truth
    frames = np.union1d(predicted.frame_N, truth.frame_N)
    ids_p, number_p = np.unique(predicted.id_N, return_inverse=True)
    ids_t, number_t = np.unique(truth.id_N, return_inverse=True)
    rows_p, rows_t = _rows_by_frame(predicted.frame_N), _rows_by_frame(truth.frame_N)
    none = np.zeros(0, np.int64)
    here = [(rows_t.get(int(f), none), rows_p.get(int(f), none)) for f in frames]
    return {
        "num_timesteps": len(frames),
        "num_tracker_dets": len(predicted),
        "num_gt_dets": len(truth),
        "num_tracker_ids": len(ids_p),
        "num_gt_ids": len(ids_t),
        "gt_ids": [number_t[t] for t, _ in here],
        "tracker_ids": [number_p[p] for _, p in here],
        "similarity_scores": [iou(truth.xyxy_N4[t], predicted.xyxy_N4[p]) for t, p in here],
    }


def precision_recall(kept: NDArray[np.bool_], label: NDArray[np.bool_]) -> dict[str, float]:
    """`precision` and `recall`, in percent, of pairs that are kept; `label` says which fit."""
    hit = float((kept & label).sum())
    return {"precision": 100 * hit / max(float(kept.sum()), 1.0), "recall": 100 * hit / max(float(label.sum()), 1.0)}


def auc(score: Floats, label: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, 0..1: the chance that a positive scores above a negative, ties count half.

    NaN where one of the two is missing.
    """
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    order = np.argsort(score, kind="stable")
    values, start, count = np.unique(score[order], return_index=True, return_counts=True)
    rank = np.empty(len(score))
    rank[order] = np.repeat(start + (count + 1) / 2, count)
    del values
    return float((rank[label].sum() - positive * (positive + 1) / 2) / (positive * negative))
