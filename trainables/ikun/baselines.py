"""How far a model is from trivial answers and from perfect ones, and what kinds of expressions it understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..metrics.tracking import auc, hota, trackeval_scores
from .evaluate import Prior, Scored, Setting, thresholds
from .truth import VideoTruth, window_labels

KINDS: dict[str, frozenset[str]] = {
    "colour": frozenset(("black", "white", "silver", "red", "yellow", "light-color")),
    "side": frozenset(("left", "right")),
    "direction": frozenset(("same", "counter")),
    "motion": frozenset(("moving", "parking", "walking", "standing", "turning")),
}
TRIVIAL = ("every_track", "random_track", "right_category")


def all_figures(scored: Scored, prior: Prior, setting: Setting) -> dict[str, float]:
    """All figures of a split under a setting: TrackEval's; precision, recall and AUC of windows, AUC by kind of
    expression; HOTA of trivial and of perfect answers, and `gap_closed`, the share of the way between them."""
    threshold_P = thresholds(scored, prior, setting)
    figures = {
        **trackeval_scores(scored.sequences(threshold_P)),
        **scored.pair_metrics(threshold_P),
        **{f"auc_{kind}": value for kind, value in auc_by_kind(scored).items()},
        **{f"hota_{name}": value for name, value in trivial_hota(scored.videos).items()},
    }
    return {**figures, "gap_closed": gap_closed(figures)}


def gap_closed(figures: Mapping[str, float]) -> float:
    """The share of the way from the best trivial answer's HOTA to that of the same tracks with true labels; below 0
    for a model that is worse than trivial, not a number where the two are equal."""
    trivial = max(figures[f"hota_{name}"] for name in TRIVIAL)
    way = figures["hota_true_labels"] - trivial
    return (figures["hota"] - trivial) / way if way else float("nan")


def trivial_hota(videos: Sequence[VideoTruth], seed: int = 0) -> dict[str, float]:
    """HOTA of answers that look at nothing, and of the same tracks with true labels.

    `every_track` keeps all boxes; `random_track` keeps whole tracks at the rate at which boxes of the video fit the
    expression; `right_category` keeps the cars or the people, as the expression says; `true_labels` keeps each
    box that is matched to an object the expression refers to in that frame: what these tracks allow at best.
    """
    rng = np.random.default_rng(seed)

    def random_track(video: VideoTruth, pair: int) -> NDArray[np.bool_]:
        ids = np.unique(video.tracked.id_N)
        kept = ids[rng.random(len(ids)) < video.fits_PN[pair].sum() / max(len(video.tracked), 1)]
        return np.isin(video.tracked.id_N, kept)

    def right_category(video: VideoTruth, pair: int) -> NDArray[np.bool_]:
        return video.category_N == category(video.texts[video.text_of_P[pair]])

    answers: dict[str, Callable[[VideoTruth, int], NDArray[np.bool_]]] = {
        "every_track": lambda video, _: np.ones(len(video.tracked), bool),
        "random_track": random_track,
        "right_category": right_category,
        "true_labels": lambda video, pair: video.fits_PN[pair],
    }
    return {name: _hota_of(videos, answer) for name, answer in answers.items()}


def _hota_of(videos: Sequence[VideoTruth], answer: Callable[[VideoTruth, int], NDArray[np.bool_]]) -> float:
    sequences = [
        s
        for video in videos
        for s in video.sequences(
            np.array([answer(video, p) for p in range(len(video.raw))], bool).reshape(
                len(video.raw), len(video.tracked)
            )
        )
    ]
    return hota(sequences)["hota"]


def category(text: str) -> str:
    """The tracker's category that a normalised expression speaks of."""
    return "car" if "car" in text.split() else "pedestrian"


def auc_by_kind(scored: Scored) -> dict[str, float]:
    """AUC of windows for expressions that name a colour, a side, a direction or a motion; an expression may count for
    several. Only windows of the category it speaks of: telling cars from people is easy."""
    auc_of = {}
    for kind, words in KINDS.items():
        scores: list[NDArray[np.floating]] = []
        labels: list[NDArray[np.bool_]] = []
        for video, score_WE in zip(scored.videos, scored.window_scores, strict=True):
            label_PW = window_labels(video)
            category_W = video.category_N[video.windows.start_W]
            for pair, index in enumerate(video.text_of_P):
                if words & set(video.texts[index].split()):
                    of_category = category_W == category(video.texts[index])
                    scores.append(score_WE[of_category, index])
                    labels.append(label_PW[pair, of_category])
        if scores:
            auc_of[kind] = auc(np.concatenate(scores), np.concatenate(labels))
    return auc_of
