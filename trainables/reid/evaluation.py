"""From features to figures: ranks galleries under a post-hoc setting, and chooses that setting on a calibration split.

A setting is plain numbers, by name; a name that is missing does nothing:

expand_k, expand_alpha                    a query becomes a mean of itself and its nearest gallery rows; k 0: no
rerank_k1, rerank_k2, rerank_lambda       k-reciprocal re-ranking (arXiv 1701.08398); k1 0: no
bonus                                     weight of a second similarity of query and gallery row, where there is one

Shapes: Q queries, G gallery rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..metrics.retrieval import Ranking, rank, rank_similarities
from ..posthoc import reranking

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Setting = Mapping[str, float]
RETRIEVAL_METRICS = ("rank1", "rank5", "rank10", "map", "map100", "minp")  # percent; all better when larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Queries against a gallery: features of length 1, who is on each row, what camera saw it."""

    query_QD: Floats
    gallery_GD: Floats
    query_id_Q: Ints
    gallery_id_G: Ints
    query_camera_Q: Ints | None = None
    gallery_camera_G: Ints | None = None
    bonus_QG: Floats | None = None

    def ranking(self, setting: Setting) -> Ranking:
        """How well the queries find their people. Raises InputError when no query has a right answer."""
        ids = (self.query_id_Q, self.gallery_id_G)
        cameras = {"query_camera_Q": self.query_camera_Q, "gallery_camera_G": self.gallery_camera_G}
        bonus, expand, rerank = (setting.get(n, 0.0) for n in ("bonus", "expand_k", "rerank_k1"))
        if not rerank and not (bonus and self.bonus_QG is not None):
            query_QD = expanded(self.query_QD, self.gallery_GD, setting) if expand else self.query_QD
            return rank(query_QD, self.gallery_GD, *ids, **cameras)  # in chunks: any size fits in memory
        return rank_similarities(self.similarities(setting), *ids, **cameras)

    def similarities(self, setting: Setting) -> Floats:
        """Q x G; larger is more alike, by what measure depends on the setting."""
        return similarities(self.query_QD, self.gallery_GD, setting, self.bonus_QG)


def expanded(query_QD: Floats, gallery_GD: Floats, setting: Setting) -> Floats:
    """The queries after the setting's expansion."""
    k = min(int(setting.get("expand_k", 0)), len(gallery_GD))
    if not k:
        return query_QD
    return np.asarray(reranking.expand_queries(query_QD, gallery_GD, k, setting.get("expand_alpha", 1.0)), np.float32)


def similarities(
    query_QD: Floats, gallery_GD: Floats, setting: Setting, bonus_QG: Floats | None = None
) -> NDArray[np.float32]:
    """Q x G similarities under a setting."""
    query_QD = expanded(query_QD, gallery_GD, setting)
    k1 = min(int(setting.get("rerank_k1", 0)), len(gallery_GD) - 1)
    if k1 > 0:
        k2 = min(int(setting.get("rerank_k2", 1)), k1)
        found_QG = -reranking.k_reciprocal(query_QD, gallery_GD, k1, k2, setting.get("rerank_lambda", 0.3))
    else:
        found_QG = query_QD @ gallery_GD.T
    if bonus_QG is not None:
        found_QG = found_QG + setting.get("bonus", 0.0) * bonus_QG
    return np.asarray(found_QG, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The settings that are tried."""

    expand_k: Sequence[int] = (0,)
    expand_alpha: Sequence[float] = (1.0,)
    rerank_k1: Sequence[int] = (0,)
    rerank_k2: Sequence[int] = (6,)
    rerank_lambda: Sequence[float] = (0.3,)
    bonus: Sequence[float] = (0.0,)

    def settings(self) -> list[dict[str, float]]:
        """All combinations, each once; the one that does nothing comes first, whether or not it was listed."""
        expansions = [{"expand_k": k, "expand_alpha": a} for k, a in product(self.expand_k, self.expand_alpha) if k]
        rerankings = [
            {"rerank_k1": k1, "rerank_k2": k2, "rerank_lambda": share}
            for k1, k2, share in product(self.rerank_k1, self.rerank_k2, self.rerank_lambda)
            if k1
        ]
        bonuses = [{"bonus": b} for b in self.bonus if b]
        found = product(_or_nothing(expansions), _or_nothing(rerankings), _or_nothing(bonuses))
        return [{**_NOTHING, **{n: float(v) for part in parts for n, v in part.items()}} for parts in found]


_NOTHING = {"expand_k": 0.0, "rerank_k1": 0.0, "bonus": 0.0}


def _or_nothing(choices: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [{}, *choices]


def mean_figures(retrievals: Sequence[Retrieval], setting: Setting) -> dict[str, float]:
    """The mean of each figure over several retrievals under one setting, in percent."""
    found = [retrieval.ranking(setting).figures() for retrieval in retrievals]
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def choose(retrievals: Sequence[Retrieval], grid: Grid, metric: str = "map") -> dict[str, float]:
    """The setting with the best mean figure; of equal ones the first, so that doing nothing wins a tie."""
    settings = grid.settings()
    if len(settings) == 1:
        return settings[0]
    values = [mean_figures(retrievals, setting)[metric] for setting in settings]
    return settings[int(np.argmax(values))]
