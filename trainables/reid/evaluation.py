"""From features to figures: ranks galleries under a post-hoc setting, and chooses that setting on a calibration split.

A setting is that of `posthoc.settings`, and `bonus`: the weight of a second similarity of query and gallery row,
where a model has one. What is missing does nothing.

Shapes: Q queries, G gallery rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.retrieval import Ranking, RetrievalTruth, rank_similarities
from ..posthoc import reranking
from ..posthoc.reranking import Features
from ..posthoc.settings import Grid, Setting

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """Features of queries and of the gallery they are searched in, whom each shows, and a second similarity."""

    features: Features
    truth: RetrievalTruth
    bonus_QG: Floats | None = None

    def ranking(self, setting: Setting) -> Ranking:
        """How well the queries find their people. Raises InputError when no query has a right answer."""
        if self.bonus_QG is None or not setting.get("bonus"):
            return reranking.ranked(self.features, self.truth, without_bonus(setting))
        t = self.truth
        return rank_similarities(
            similarities(self.features, setting, self.bonus_QG),
            t.query_id_Q,
            t.gallery_id_G,
            query_camera_Q=t.query_camera_Q,
            gallery_camera_G=t.gallery_camera_G,
        )


def similarities(features: Features, setting: Setting, bonus_QG: Floats | None = None) -> Floats:
    """Q x G similarities under a setting; larger is more alike, re-ranked ones are minus a distance."""
    similarity_QG = reranking.similarities(features, without_bonus(setting))
    if bonus_QG is not None:
        similarity_QG = similarity_QG + np.float32(setting.get("bonus", 0.0)) * bonus_QG
    return np.asarray(similarity_QG, np.float32)


def without_bonus(setting: Setting) -> dict[str, float]:
    """A setting's part that re-ranking reads."""
    return {name: value for name, value in setting.items() if name != "bonus"}


def mean_figures(retrievals: Sequence[Retrieval], setting: Setting) -> dict[str, float]:
    """The mean of each figure over several retrievals under one setting, in percent."""
    each = [retrieval.ranking(setting).figures() for retrieval in retrievals]
    return {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def choose(
    retrievals: Sequence[Retrieval], grid: Grid, *, bonuses: Sequence[float] = (), metric: str = "map"
) -> dict[str, float]:
    """The setting with the best mean figure; of equal ones the first, so that doing nothing wins a tie.

    Weights of the second similarity are tried on the plain ranking and on the best other one.
    """
    settings = grid.settings()
    value_S = np.mean([reranking.figures(r.features, r.truth, settings, metric) for r in retrievals], 0)
    best = settings[int(np.argmax(value_S))]
    if not any(r.bonus_QG is not None for r in retrievals):
        return dict(best)
    bases = [best] if best == settings[0] else [best, settings[0]]
    tried = [{**base, "bonus": 0.0} for base in bases]
    tried += [{**base, "bonus": float(weight)} for base in bases for weight in bonuses if weight]
    values = [mean_figures(retrievals, setting)[metric] for setting in tried]
    return tried[int(np.argmax(values))]
