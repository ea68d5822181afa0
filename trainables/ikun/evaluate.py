"""From scores of windows to HOTA: what each video's truth is, the post-hoc choice, the metrics.

The setting (a, tau, threshold) is chosen on videos that are not reported on: thousands are ranked with a
table (`posthoc.hota_table`), the best few decided by the exact metric.

Shapes: N tracker boxes, W windows, E expressions of a video (normalised), P (video, raw expression) pairs, S settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ..metrics.tracking import Boxes, Matches, Sequence2D, auc, hota, match, precision_recall
from ..posthoc.calibration import expression_prior, threshold_of
from ..posthoc.hota_table import Pair, tabulate
from .windows import Windows, box_scores, geometry, windows_of

Floats = NDArray[np.float64]
Setting = Mapping[str, float]
EXACT = 5  # best of the table that the exact metric decides between


@dataclass(frozen=True, slots=True)
class Prior:
    """What calibration reads: text features of length 1, and how common training expressions are."""

    train_KD: Floats
    share_K: Floats
    feature_of: Mapping[str, Floats]  # by normalised expression

    def of(self, texts: Sequence[str], tau: float | NDArray[np.float64]) -> Floats:
        """Priors of some expressions."""
        return expression_prior(np.stack([self.feature_of[t] for t in texts]), self.train_KD, self.share_K, tau)


@dataclass(frozen=True, slots=True)
class VideoTruth:
    """A video to score: tracker output, its windows, and what is true of each box."""

    video: str
    tracked: Boxes
    category_N: NDArray[np.str_]
    geometry_N8: NDArray[np.float32]
    windows: Windows
    texts: tuple[str, ...]  # E normalised expressions
    raw: tuple[str, ...]  # P of them in the data set's words
    text_of_P: NDArray[np.int64]
    matches: Matches
    object_N: NDArray[np.int64]
    truths: tuple[Boxes, ...]  # one a pair
    fits_PN: NDArray[np.bool_]

    @classmethod
    def load(cls, data: ReferKitti, video: str, tracks: str, window_frames: int, stride: int, looks: int) -> VideoTruth:
        """Reads a video's tracks and truth, and matches them once."""
        found = data.tracks(video, tracks)
        tracked = Boxes(found.frame_N, found.id_N, found.xyxy_N4)
        things = data.objects(video)
        everything = Boxes(
            np.concatenate([t.frame_F for t in things]),
            np.concatenate([np.full(len(t.frame_F), t.id) for t in things]),
            np.concatenate([t.xyxy_F4 for t in things]),
        )
        matches = match(tracked, everything)
        object_N = np.where(matches.row_N >= 0, everything.id_N[matches.row_N], -1)
        raw = data.expressions(video)
        texts = tuple(sorted({normalise(e) for e in raw}))
        truths = []
        fits = np.zeros((len(raw), len(tracked)), bool)
        for pair, expression in enumerate(raw):
            truth = data.truth(video, expression)
            truths.append(Boxes(truth.frame_N, truth.id_N, truth.xyxy_N4))
            referred = set(zip(truth.frame_N.tolist(), truth.id_N.tolist(), strict=True))
            fits[pair] = [(f, i) in referred for f, i in zip(tracked.frame_N.tolist(), object_N.tolist(), strict=True)]
        return cls(
            video,
            tracked,
            found.category_N,
            geometry(tracked, data.size(video), window_frames // 2),
            windows_of(tracked, window_frames, stride, looks),
            texts,
            raw,
            np.array([texts.index(normalise(e)) for e in raw], np.int64),
            matches,
            object_N,
            tuple(truths),
            fits,
        )

    def scores_PN(self, score_WE: NDArray[np.floating]) -> Floats:
        """Scores of boxes for each pair, from scores of windows."""
        return box_scores(self.windows, score_WE, len(self.tracked)).T[self.text_of_P]

    def sequences(self, kept_PN: NDArray[np.bool_]) -> list[Sequence2D]:
        """What a metric compares, for each pair."""
        return [Sequence2D(self.tracked.take(k), t) for k, t in zip(kept_PN, self.truths, strict=True)]


class Scored:
    """Videos of a split with their scores."""

    def __init__(
        self, videos: Sequence[VideoTruth], score_WE: Sequence[NDArray[np.floating]], *, strict_bounds: bool
    ) -> None:
        self.videos = videos
        self.window_scores = score_WE
        self.box_scores = [v.scores_PN(s) for v, s in zip(videos, score_WE, strict=True)]
        self.inside = [_inside(v.tracked, strict_bounds) for v in videos]
        self.texts = [v.texts[i] for v in videos for i in v.text_of_P]

    def table_pairs(self) -> list[Pair]:
        """What the table is made of."""
        return [
            Pair(
                v.tracked.take(inside),
                Matches(v.matches.row_N[inside], v.matches.iou_N[inside]),
                v.object_N[inside],
                fits[inside],
                truth.id_N,
                score[inside],
            )
            for v, scores, inside in zip(self.videos, self.box_scores, self.inside, strict=True)
            for score, fits, truth in zip(scores, v.fits_PN, v.truths, strict=True)
        ]

    def kept(self, threshold_P: Floats) -> list[NDArray[np.bool_]]:
        """Which boxes are kept, P x N for each video."""
        cuts = np.split(threshold_P, np.cumsum([len(v.raw) for v in self.videos])[:-1])
        return [(s > c[:, None]) & i for s, c, i in zip(self.box_scores, cuts, self.inside, strict=True)]

    def sequences(self, threshold_P: Floats) -> list[Sequence2D]:
        """What is kept at a threshold per pair, beside the truth."""
        kept = self.kept(threshold_P)
        return [s for v, k in zip(self.videos, kept, strict=True) for s in v.sequences(k)]

    def pair_metrics(self, threshold_P: Floats) -> dict[str, float]:
        """Precision, recall and AUC of (window, raw expression) pairs; a window fits when most of its boxes do."""
        cuts = np.split(threshold_P, np.cumsum([len(v.raw) for v in self.videos])[:-1])
        score, kept, label = [], [], []
        for video, scores_WE, cut in zip(self.videos, self.window_scores, cuts, strict=True):
            score_PW = np.asarray(scores_WE, np.float64).T[video.text_of_P]
            fits_PW = window_labels(video)
            score.append(score_PW.ravel())
            kept.append((score_PW > cut[:, None]).ravel())
            label.append(fits_PW.ravel())
        truth = np.concatenate(label)
        return {**precision_recall(np.concatenate(kept), truth), "auc": auc(np.concatenate(score), truth)}


def window_labels(video: VideoTruth) -> NDArray[np.bool_]:
    """Whether an expression fits most boxes of a window, P x W."""
    total = np.concatenate([np.zeros((len(video.raw), 1)), video.fits_PN.cumsum(1)], 1)
    size = video.windows.stop_W - video.windows.start_W
    return (total[:, video.windows.stop_W] - total[:, video.windows.start_W]) * 2 > size


def _inside(boxes: Boxes, strict: bool) -> NDArray[np.bool_]:
    """The published code leaves out the first and last frame of a video; on request so do we."""
    if not strict or not len(boxes):
        return np.ones(len(boxes), bool)
    return (boxes.frame_N > boxes.frame_N.min()) & (boxes.frame_N < boxes.frame_N.max())


def thresholds(scored: Scored, prior: Prior, setting: Setting) -> Floats:
    """The raw score each pair must exceed under a setting."""
    return threshold_of(prior.of(scored.texts, setting["tau"]), setting["a"], setting["threshold"])


def candidates(
    scored: Scored, prior: Prior, a_values: Sequence[float], tau_values: Sequence[float], count: int
) -> tuple[list[dict[str, float]], Floats]:
    """Settings to try, and their threshold per pair, S x P: all (a, tau), and for each `count` quantiles of the
    scores they give. Without `a`, tau means nothing."""
    sample, pair_of = _sample(scored)
    share = np.linspace(0.02, 0.995, count)
    settings: list[dict[str, float]] = []
    found: list[Floats] = []
    for tau, prior_P in zip(tau_values, prior.of(scored.texts, np.array(tau_values)), strict=True):
        for a in a_values if tau == tau_values[0] else [a for a in a_values if a]:
            threshold_S = np.quantile(sample + a * prior_P[pair_of], share)
            settings += [{"a": a, "tau": tau, "threshold": float(t)} for t in threshold_S]
            found.append(threshold_of(prior_P, a, threshold_S))
    return settings, np.concatenate(found)


def _sample(scored: Scored, most: int = 4096) -> tuple[Floats, NDArray[np.int64]]:
    """At most `most` scores of each video, evenly taken, and the pair that each belongs to."""
    scores, pairs, first = [], [], 0
    for video, score_PN in zip(scored.videos, scored.box_scores, strict=True):
        step = max(1, score_PN.size // most)
        scores.append(score_PN.ravel()[::step])
        pairs.append(first + np.arange(score_PN.size)[::step] // max(score_PN.shape[1], 1))
        first += len(video.raw)
    return np.concatenate(scores), np.concatenate(pairs)


def choose(
    scored: Scored, prior: Prior, a_values: Sequence[float], tau_values: Sequence[float], count: int
) -> dict[str, float]:
    """The setting with the best exact HOTA among the table's best; ties go to the earlier in the grid."""
    settings, threshold_SP = candidates(scored, prior, a_values, tau_values, count)
    rough = tabulate(scored.table_pairs()).hota(threshold_SP)
    best = np.argsort(-rough, kind="stable")[:EXACT]
    exact = [hota(scored.sequences(threshold_SP[i]))["hota"] for i in best]
    return settings[int(best[int(np.argmax(exact))])]
