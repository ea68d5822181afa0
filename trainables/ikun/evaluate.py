"""From scores of windows to HOTA: the post-hoc choice, the metrics.

The setting (a, tau, threshold) is chosen on videos that are not reported on: thousands are ranked with a
table (`posthoc.hota_table`), the best few decided by the exact metric.

Shapes: N tracker boxes, W windows, E expressions of a video (normalised), P (video, raw expression) pairs, S settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from numpy.typing import NDArray

from ...datasets.stream import Arrays
from ..metrics.tracking import Boxes, Matches, Sequence2D, auc, hota, precision_recall
from ..posthoc.calibration import expression_prior, threshold_of
from ..posthoc.hota_table import Pair, tabulate
from .config import Config
from .model import Ikun
from .truth import VideoTruth, window_labels

Floats = NDArray[np.float64]
Setting = Mapping[str, float]
EXACT = 5  # best of the table that the exact metric decides between


@dataclass(frozen=True, slots=True)
class Prior:
    """What calibration compares with: text features of length 1, and how common training expressions are."""

    train_KD: Floats
    share_K: Floats
    feature_of: Mapping[str, Floats]  # by normalised expression

    def of(self, texts: Sequence[str], tau: float | NDArray[np.float64]) -> Floats:
        """Priors of some normalised expressions, 0..1; of several tau S x expressions."""
        feature_ED = np.array([self.feature_of[t] for t in texts]).reshape(-1, self.train_KD.shape[1])
        return expression_prior(feature_ED, self.train_KD, self.share_K, tau)

    @classmethod
    @torch.no_grad()
    def make(cls, model: Ikun, facts: Mapping[str, Any], texts: Sequence[str]) -> Prior:
        """For some normalised expressions, in the features of a model's own text tower; `facts` are a package's
        training expressions, `texts`, and each one's `share` of all positive boxes."""
        known = sorted({*texts, *facts["texts"]})
        device = next(model.parameters()).device
        _, end_ED = model.clip.encode_text(model.clip.tokenize(known).to(device), 1)
        feature = F.normalize(end_ED.double(), dim=-1).cpu().numpy()
        by_text = dict(zip(known, feature, strict=True))
        return cls(np.stack([by_text[t] for t in facts["texts"]]), np.array(facts["share"]), by_text)


class Scored:
    """Videos of a split with the scores of their windows."""

    def __init__(
        self, videos: Sequence[VideoTruth], score_WE: Sequence[NDArray[np.floating]], *, strict_bounds: bool
    ) -> None:
        self.videos = videos
        self.window_scores = score_WE
        self.box_scores = [v.scores_PN(s) for v, s in zip(videos, score_WE, strict=True)]
        self.inside = [_inside(v.tracked, strict_bounds) for v in videos]
        self.texts = [v.texts[i] for v in videos for i in v.text_of_P]

    @classmethod
    def of(cls, videos: Sequence[VideoTruth], predictions: Arrays, *, strict_bounds: bool) -> Scored:
        """From what `predict.WindowScores` gives for the videos, in their order; no arrays where none has a window."""
        shapes = [(len(video.windows), len(video.texts)) for video in videos]
        parts = _split(predictions.get("score", np.zeros(0, np.float32)), [w * e for w, e in shapes])
        return cls(videos, [p.reshape(s) for p, s in zip(parts, shapes, strict=True)], strict_bounds=strict_bounds)

    def table_pairs(self) -> list[Pair]:
        """The (video, expression) pairs as the table takes them."""
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
        cuts = _split(threshold_P, [len(v.raw) for v in self.videos])
        return [(s > c[:, None]) & i for s, c, i in zip(self.box_scores, cuts, self.inside, strict=True)]

    def sequences(self, threshold_P: Floats) -> list[Sequence2D]:
        """The boxes that are kept at a threshold per pair, beside the ground truth."""
        kept = self.kept(threshold_P)
        return [s for v, k in zip(self.videos, kept, strict=True) for s in v.sequences(k)]

    def pair_metrics(self, threshold_P: Floats) -> dict[str, float]:
        """Precision, recall and AUC of (window, raw expression) pairs; a window fits when most of its boxes do."""
        cuts = _split(threshold_P, [len(v.raw) for v in self.videos])
        score, kept, label = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, bool)]
        for video, scores_WE, cut in zip(self.videos, self.window_scores, cuts, strict=True):
            score_PW = np.asarray(scores_WE, np.float64).T[video.text_of_P]
            fits_PW = window_labels(video)
            score.append(score_PW.ravel())
            kept.append((score_PW > cut[:, None]).ravel())
            label.append(fits_PW.ravel())
        truth = np.concatenate(label)
        return {**precision_recall(np.concatenate(kept), truth), "auc": auc(np.concatenate(score), truth)}


def _split(array: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """Parts of these sizes, in order."""
    return np.split(array, np.cumsum(sizes, dtype=np.int64)[:-1]) if sizes else []


def _inside(boxes: Boxes, strict: bool) -> NDArray[np.bool_]:
    """The published code leaves out the first and last frame of a video; on request so do we."""
    if not strict or not len(boxes):
        return np.ones(len(boxes), bool)
    return (boxes.frame_N > boxes.frame_N.min()) & (boxes.frame_N < boxes.frame_N.max())


def thresholds(scored: Scored, prior: Prior, setting: Setting) -> Floats:
    """The raw score that each pair must exceed under a setting, P."""
    return threshold_of(prior.of(scored.texts, setting["tau"]), setting["a"], setting["threshold"])


def candidates(scored: Scored, prior: Prior, config: Config) -> tuple[list[dict[str, float]], Floats]:
    """Settings to try, and their threshold per pair, S x P: all (a, tau) of a Config, and for each some quantiles of
    the scores they give. Without `a`, tau means nothing; without any score, thresholds are 0."""
    a_values, tau_values = config.calibration_a, config.calibration_tau
    sample, pair_of = _sample(scored)
    if not len(sample):
        nothing = {"a": a_values[0], "tau": tau_values[0], "threshold": 0.0}
        return [nothing], thresholds(scored, prior, nothing)[None]
    share = np.linspace(0.02, 0.995, config.calibration_thresholds)
    settings: list[dict[str, float]] = []
    threshold_SP: list[Floats] = []
    for tau, prior_P in zip(tau_values, prior.of(scored.texts, np.array(tau_values)), strict=True):
        for a in a_values if tau == tau_values[0] else [a for a in a_values if a]:
            threshold_S = np.quantile(sample + a * prior_P[pair_of], share)
            settings += [{"a": a, "tau": tau, "threshold": float(t)} for t in threshold_S]
            threshold_SP.append(threshold_of(prior_P, a, threshold_S))
    return settings, np.concatenate(threshold_SP)


def _sample(scored: Scored, most: int = 4096) -> tuple[Floats, NDArray[np.int64]]:
    """At most `most` scores of each video, evenly taken, and the pair that each belongs to."""
    scores, pairs, first = [np.zeros(0)], [np.zeros(0, np.int64)], 0
    for video, score_PN in zip(scored.videos, scored.box_scores, strict=True):
        step = max(1, score_PN.size // most)
        scores.append(score_PN.ravel()[::step])
        pairs.append(first + np.arange(score_PN.size)[::step] // max(score_PN.shape[1], 1))
        first += len(video.raw)
    return np.concatenate(scores), np.concatenate(pairs)


def choose(scored: Scored, prior: Prior, config: Config) -> dict[str, float]:
    """The setting with the best exact HOTA among the table's best; ties go to the earlier in the grid."""
    settings, threshold_SP = candidates(scored, prior, config)
    rough = tabulate(scored.table_pairs()).hota(threshold_SP)
    best = np.argsort(-rough, kind="stable")[:EXACT]
    exact = [hota(scored.sequences(threshold_SP[i]))["hota"] for i in best]
    return settings[int(best[int(np.argmax(exact))])]


def metrics_of(scored: Scored, prior: Prior, setting: Setting) -> dict[str, float]:
    """METRICS under a setting; all but `auc` in percent."""
    threshold_P = thresholds(scored, prior, setting)
    return {**hota(scored.sequences(threshold_P)), **scored.pair_metrics(threshold_P)}
