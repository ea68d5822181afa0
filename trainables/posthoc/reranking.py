"""Re-ranking, query expansion and fusion weights: what raises a retrieval model's figures without training.

`posthoc.settings` says what a setting is. Everything works on features as cached: nothing is encoded again.

Shapes: Q queries, G gallery rows, D width, N = Q + G, C queries of a block, S settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ...datasets.problems import InputError
from ..metrics.retrieval import Floats, Ranker, Ranking, RetrievalTruth, Singles, inner_products, on_grid
from .reciprocal import Neighbours, clear, encode, jaccard, nearest, neighbours, smooth
from .settings import PLAIN, Grid, Setting, check_setting

BLOCK = 1 << 20  # similarities handled at once: the Jaccard distance takes some hundred bytes of each


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features by kind ("image" and "text", or modalities): each query's, each gallery row's.

    Rows have length 1, or 0 where a row has none of that kind. Kinds may differ in width.
    """

    query: Mapping[str, ArrayLike]
    gallery: Mapping[str, ArrayLike]

    @classmethod
    def of(cls, query_QD: ArrayLike, gallery_GD: ArrayLike) -> Features:
        """Features of one kind, named `all`: Q x D of the queries, G x D of the gallery."""
        return cls({"all": query_QD}, {"all": gallery_GD})

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds, each of which may have a weight."""
        return tuple(self.query)

    def fused(self, setting: Setting) -> tuple[Singles, Singles]:
        """One feature a row, Q x D and G x D, such that inner products rank as sum of weight x inner product of each
        kind does. Raises InputError for kinds that only one side has, and for rows of another length than 1 or 0."""
        if set(self.query) != set(self.gallery):
            raise InputError(f"query and gallery must have the same kinds, got {set(self.query)}, {set(self.gallery)}")
        if len(self.kinds) == 1:
            return _of_length_1(self.query[self.kinds[0]], "query"), _of_length_1(
                self.gallery[self.kinds[0]], "gallery"
            )
        return self._joined(self.query, setting, "query"), self._joined(self.gallery, setting, "gallery")

    def _joined(self, by_kind: Mapping[str, ArrayLike], setting: Setting, whose: str) -> Singles:
        weights = [setting.get(f"weight_{kind}", 1.0) for kind in self.kinds]
        parts = [
            math.sqrt(w) * _of_length_1(by_kind[kind], f"{whose} {kind}")
            for kind, w in zip(self.kinds, weights, strict=True)
        ]
        return _normalised(np.concatenate(parts, 1))


def expand_queries(query_QD: ArrayLike, gallery_GD: ArrayLike, k: int, alpha: float) -> Singles:
    """Alpha query expansion: a query plus its k best gallery rows, weighted by similarity^alpha, of length 1.

    Similarities below 0 count as 0. alpha 0 is the plain mean. Of equally similar rows all are among the best or none,
    so that the order of the gallery does not matter.
    """
    query_QD = np.asarray(query_QD, np.float32)
    if k == 0:
        return query_QD
    gallery_GD = np.asarray(gallery_GD, np.float32)
    return _expanded(query_QD, gallery_GD, *_best(query_QD, gallery_GD, k), k, alpha)


def k_reciprocal(query_QD: ArrayLike, gallery_GD: ArrayLike, k1: int, k2: int, lam: float) -> Singles:
    """Distances (1 - lam) x Jaccard of k-reciprocal sets + lam x plain; Q x G, lower is more alike (eq. 12).

    The plain distance is the squared Euclidean one over the farthest of the query's, as in the authors' code.
    """
    setting = {"k1": k1, "k2": k2, "lambda": lam}
    check_setting(setting)
    query, gallery = _of_length_1(query_QD, "query"), _of_length_1(gallery_GD, "gallery")
    if lam < 1:
        return -np.concatenate([block[0] for block in _blocks(query, gallery, [setting])])
    near = neighbours(on_grid(np.concatenate([query, gallery])), 0)
    blocks = inner_products(near.feature_ND[: len(query)], near.feature_ND[len(query) :])
    return near.distance(np.concatenate(list(blocks)), np.arange(len(query))).astype(np.float32)


def similarities(features: Features, setting: Setting) -> Singles:
    """Similarities under a setting, Q x G, higher is more alike."""
    return np.concatenate(list(_of_setting(features, setting)))


def ranked(features: Features, truth: RetrievalTruth, setting: Setting, k: int = 50) -> Ranking:
    """The figures of a split under a setting that was chosen elsewhere; no matrix of Q x G is held."""
    ranker = Ranker(truth, k)
    for similarity_CG in _of_setting(features, setting):
        ranker.add(similarity_CG)
    return ranker.ranking()


def choose(
    features: Features, truth: RetrievalTruth, grid: Grid | None = None, metric: str = "map"
) -> dict[str, float]:
    """The setting of the grid with the best figure on a calibration split; ties go to the earlier, plain is first."""
    settings = (grid or Grid()).settings()
    return settings[int(np.argmax(figures(features, truth, settings, metric)))]


def figures(features: Features, truth: RetrievalTruth, settings: Sequence[Setting], metric: str = "map") -> list[float]:
    """One figure of each setting.

    Features are fused once for each set of weights, neighbours found once for each expansion of queries, sets made once
    for each k1 and smoothed once for each k2; a lambda costs a blend.
    """
    rankers = [Ranker(truth) for _ in settings]
    for (weights, *_), group in _grouped(settings, features.kinds, ()).items():
        query_QD, gallery_GD = features.fused(dict(weights))
        most = int(max(settings[i].get("qe_k", 0) for i in group))
        best = _best(query_QD, gallery_GD, most) if most else None
        for (_, k, alpha), rows in _grouped([settings[i] for i in group], features.kinds, ("qe_k", "qe_alpha")).items():
            wider_QD = query_QD if best is None or not k else _expanded(query_QD, gallery_GD, *best, int(k), alpha)
            mine = [group[row] for row in rows]
            for blocks in _blocks(wider_QD, gallery_GD, [settings[i] for i in mine]):
                for i, similarity_CG in zip(mine, blocks, strict=True):
                    rankers[i].add(similarity_CG)
    by_setting = [ranker.ranking().figures() for ranker in rankers]
    if metric not in by_setting[0]:
        raise InputError(f"metric must be one of {', '.join(by_setting[0])}, got {metric}")
    return [f[metric] for f in by_setting]


def _grouped(
    settings: Sequence[Setting], kinds: Sequence[str], names: Sequence[str]
) -> dict[tuple[Any, ...], list[int]]:
    """Places of settings with the same weights and the same values of some names."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, setting in enumerate(settings):
        check_setting(setting, kinds)
        weights = tuple((f"weight_{kind}", setting.get(f"weight_{kind}", 1.0)) for kind in kinds)
        groups.setdefault((weights, *({**PLAIN, **setting}[name] for name in names)), []).append(place)
    return groups


def _of_setting(features: Features, setting: Setting) -> Iterator[Singles]:
    check_setting(setting, features.kinds)
    full = {**PLAIN, **setting}
    query_QD, gallery_GD = features.fused(setting)
    query_QD = expand_queries(query_QD, gallery_GD, int(full["qe_k"]), full["qe_alpha"])
    return (block[0] for block in _blocks(query_QD, gallery_GD, [full]))


def _blocks(query_QD: Singles, gallery_GD: Singles, settings: Sequence[Setting]) -> Iterator[list[Singles]]:
    """Similarities C x G of each setting (of its k1, k2 and lambda), block by block of queries."""
    queries = len(query_QD)
    again = sorted({(int(s["k1"]), int(s["k2"])) for s in settings if s.get("lambda", 1) < 1})
    query, gallery = on_grid(query_QD), on_grid(gallery_GD)
    near: Neighbours | None = None
    sets: dict[tuple[int, int], tuple[Any, Any]] = {}
    if again:
        near = neighbours(np.concatenate([query, gallery]), max(max(pair) for pair in again))
        for k1 in sorted({k1 for k1, _ in again}):
            encoded = encode(near, k1)
            for k2 in [k2 for k, k2 in again if k == k1]:
                smoothed = smooth(encoded, near, k2)
                sets[k1, k2] = (smoothed[:queries], csr_array(smoothed[queries:].T))
    start = 0
    chunk = max(1, min(BLOCK // max(len(gallery), 1), 64)) if again else None
    for plain_CG in inner_products(query, gallery, chunk):
        rows = slice(start, start + len(plain_CG))
        far = {pair: jaccard(query_sets[rows], by_entry) for pair, (query_sets, by_entry) in sets.items()}
        far_CG = near.distance(plain_CG, np.arange(rows.start, rows.stop)) if near else plain_CG
        yield [_blend(plain_CG, far_CG, far, s) for s in settings]
        start = rows.stop


def _blend(
    plain_CG: Singles, far_CG: NDArray[np.floating], jaccard_of: Mapping[tuple[int, int], Singles], setting: Setting
) -> Singles:
    lam = setting.get("lambda", 1)
    if lam == 1:
        return plain_CG
    jaccard_CG = jaccard_of[int(setting["k1"]), int(setting["k2"])]
    return -((1 - lam) * jaccard_CG + lam * far_CG).astype(np.float32)


def _best(query_QD: Singles, gallery_GD: Singles, k: int) -> tuple[NDArray[np.int64], Singles]:
    """The k best gallery rows of each query and the one after, or all there are, and their similarities."""
    blocks = [nearest(block, k + 1) for block in inner_products(on_grid(query_QD), on_grid(gallery_GD))]
    rows, values = zip(*blocks, strict=True)
    return np.concatenate(rows), np.concatenate(values)


def _expanded(
    query_QD: Singles, gallery_GD: Singles, row_QK: NDArray[np.int64], similarity_QK: Singles, k: int, alpha: float
) -> Singles:
    weight_QK = np.maximum(similarity_QK.astype(np.float64), 0) ** alpha * clear(similarity_QK, k)
    wider_QD = query_QD.astype(np.float64)
    for row_Q, weight_Q in zip(row_QK.T[:k], weight_QK.T[:k], strict=True):
        wider_QD += weight_Q[:, None] * gallery_GD[row_Q]
    return _normalised(wider_QD)


def _normalised(feature_ND: Floats | Singles) -> Singles:
    length_N1 = np.linalg.norm(feature_ND, axis=1, keepdims=True)
    return (feature_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)


def _of_length_1(feature_ND: ArrayLike, whose: str) -> Singles:
    single_ND = np.asarray(feature_ND, np.float32)
    length_N = np.linalg.norm(single_ND, axis=1)
    wrong = np.flatnonzero(~((np.abs(length_N - 1) < 1e-3) | (length_N == 0)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{whose} features must have length 1, or 0 for none, got {length_N[row]:.4g} in row {row}")
    return single_ND
