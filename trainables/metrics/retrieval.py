"""Retrieval metrics: CMC, mAP, mAP@100 and mINP, exact under ties, in memory that does not grow with queries x gallery.

A right answer is a gallery row of the query's identity. Left out of a query's list are gallery rows of its identity
*and* its camera (where cameras are given and known: >= 0), and rows of no identity (< 0) for every query.

Ties: of rows with the same similarity the wrong ones come first. This is the worst order there is, so a tie never
flatters, and no figure depends on the order of the gallery. A model that gives one similarity to everything is last.

Ranks come from counts, not from a sorted list: a right answer of similarity s has rank (right ones above it, itself
counted) + (wrong ones of similarity >= s).

Shapes: Q queries, G gallery rows, D width, C queries of a block, S gallery rows of a query's identity, R of them right,
K places of the CMC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...datasets.problems import InputError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
BLOCK = 1 << 23  # similarities held at once, of 12 bytes
GRID_BITS = 26  # a product of two has 52 and a sum of them 53: what float64 holds


@dataclass(frozen=True, slots=True)
class RetrievalTruth:
    """Whom each query and each gallery row shows, and which camera took it (-1: unknown).

    Raises InputError for identities that are no whole numbers, and for cameras of one side only.
    """

    query_id_Q: Ints  # < 0: nobody, as in the gallery
    gallery_id_G: Ints
    query_camera_Q: Ints | None = None
    gallery_camera_G: Ints | None = None

    def __post_init__(self) -> None:
        if (self.query_camera_Q is None) != (self.gallery_camera_G is None):
            raise InputError("cameras must be given for queries and gallery, or for neither, got one of them")
        for name, size in (("query", "query_id_Q"), ("gallery", "gallery_id_G")):
            ids = np.asarray(getattr(self, size))
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise InputError(f"{name} identities must be whole numbers in one row, got {ids.dtype} {ids.shape}")
        for cameras, ids in ((self.query_camera_Q, self.query_id_Q), (self.gallery_camera_G, self.gallery_id_G)):
            if cameras is not None and np.shape(cameras) != np.shape(ids):
                raise InputError(f"cameras must be one an identity, {np.shape(ids)}, got {np.shape(cameras)}")


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well queries find their gallery rows. Fields are shares of 1; `figures` are in percent.

    Per query NaN where no right answer is in the gallery; such queries count in no mean.
    """

    cmc: Floats  # (K,) share of queries with a right answer among the first k, k = 1..K
    ap_Q: Floats  # mean over right answers of the precision at their ranks
    ap100_Q: Floats  # the same of the first 100 places, over min(R, 100)
    inp_Q: Floats  # R / rank of the last right answer (arXiv 2001.04193, eq. 3)
    first_Q: Floats  # rank of the first right answer, from 1

    def figures(self) -> dict[str, float]:
        """`rank1`, `rank5`, `rank10`, `map`, `map100`, `minp`: means over queries, in percent."""
        first = self.first_Q[~np.isnan(self.first_Q)]
        shares = {f"rank{k}": float((first <= k).mean()) for k in (1, 5, 10)}
        means = {"map": self.ap_Q, "map100": self.ap100_Q, "minp": self.inp_Q}
        return {name: 100 * v for name, v in (shares | {n: float(np.nanmean(v)) for n, v in means.items()}).items()}


def rank(
    query_QD: ArrayLike,
    gallery_GD: ArrayLike,
    query_id_Q: ArrayLike,
    gallery_id_G: ArrayLike,
    *,
    query_camera_Q: ArrayLike | None = None,
    gallery_camera_G: ArrayLike | None = None,
    k: int = 50,
    chunk: int | None = None,
) -> Ranking:
    """Ranks the gallery for each query by inner product, `chunk` queries at a time.

    Raises InputError for features that are no numbers or of another shape, and if no query has a right answer.
    """
    ranker = Ranker(_truth(query_id_Q, gallery_id_G, query_camera_Q, gallery_camera_G), k)
    for similarity_CG in inner_products(on_grid(query_QD), on_grid(gallery_GD), chunk):
        ranker.add(similarity_CG)
    return ranker.ranking()


def rank_similarities(
    similarity_QG: ArrayLike,
    query_id_Q: ArrayLike,
    gallery_id_G: ArrayLike,
    *,
    query_camera_Q: ArrayLike | None = None,
    gallery_camera_G: ArrayLike | None = None,
    k: int = 50,
    chunk: int | None = None,
) -> Ranking:
    """`rank` of similarities that are there already; higher is more alike."""
    ranker = Ranker(_truth(query_id_Q, gallery_id_G, query_camera_Q, gallery_camera_G), k)
    similarity_QG = np.asarray(similarity_QG)
    for rows in _blocks(similarity_QG.shape, chunk):
        ranker.add(similarity_QG[rows])
    return ranker.ranking()


class Ranker:
    """Takes similarities by blocks of queries, in order, and keeps a few numbers of each query."""

    def __init__(self, truth: RetrievalTruth, k: int = 50) -> None:
        if k < 1:
            raise InputError(f"k must be >= 1, got {k}")
        self.truth = truth
        self.k = k
        queries = len(truth.query_id_Q)
        # by identity: the rows of one lie together
        self._by_id_G = np.argsort(truth.gallery_id_G, kind="stable")
        sorted_G = truth.gallery_id_G[self._by_id_G]
        known = int(np.searchsorted(sorted_G, 0))
        self._nobody = self._by_id_G[:known]
        self._start_Q = np.searchsorted(sorted_G, truth.query_id_Q, "left")
        self._stop_Q = np.where(
            truth.query_id_Q < 0, self._start_Q, np.searchsorted(sorted_G, truth.query_id_Q, "right")
        )
        self._figures_4Q = np.full((4, queries), np.nan)
        self._done = 0

    def add(self, similarity_CG: NDArray[np.floating]) -> None:
        """Ranks the next C queries. Raises InputError for similarities of another shape, and for NaN."""
        gallery = len(self.truth.gallery_id_G)
        if similarity_CG.ndim != 2 or similarity_CG.shape[1] != gallery:
            raise InputError(f"similarities must be queries x {gallery}, got {similarity_CG.shape}")
        if self._done + len(similarity_CG) > len(self.truth.query_id_Q):
            raise InputError(f"similarities must be of {len(self.truth.query_id_Q)} queries, got more")
        if np.isnan(similarity_CG).any():
            raise InputError("similarities must be numbers, got NaN")
        for similarity_G in similarity_CG:
            self._figures_4Q[:, self._done] = self._figures_of(similarity_G, self._done)
            self._done += 1

    def _figures_of(self, similarity_G: NDArray[np.floating], query: int) -> tuple[float, float, float, float]:
        same_S = self._by_id_G[self._start_Q[query] : self._stop_Q[query]]
        right_R = same_S
        cameras_G, cameras_Q = self.truth.gallery_camera_G, self.truth.query_camera_Q
        if cameras_G is not None and cameras_Q is not None and cameras_Q[query] >= 0:
            right_R = same_S[cameras_G[same_S] != cameras_Q[query]]
        if not len(right_R):
            return (np.nan,) * 4
        score_R = np.sort(similarity_G[right_R])[::-1]
        # what is below the last right answer moves nothing: the rest alone is sorted
        above = np.sort(similarity_G[similarity_G >= score_R[-1]])
        wrong_R = _at_least(above, score_R)
        for others in (same_S, self._nobody):
            if len(others):
                wrong_R = wrong_R - _at_least(np.sort(similarity_G[others]), score_R)
        place_R = np.arange(1, len(score_R) + 1)
        rank_R = wrong_R + place_R
        precision_R = place_R / rank_R
        ap100 = precision_R[rank_R <= 100].sum() / min(len(rank_R), 100)
        return precision_R.mean(), ap100, precision_R[-1], rank_R[0]

    def ranking(self) -> Ranking:
        """The figures of all queries. Raises InputError while some are missing, or when none has a right answer."""
        queries = len(self.truth.query_id_Q)
        if self._done < queries:
            raise InputError(f"similarities must be of {queries} queries, got {self._done}")
        ap_Q, ap100_Q, inp_Q, first_Q = self._figures_4Q
        first = first_Q[~np.isnan(first_Q)]
        if not len(first):
            raise InputError(f"at least one query must have a right answer in the gallery, got none of {queries}")
        cmc = (first[:, None] <= np.arange(1, self.k + 1)).mean(0)
        return Ranking(cmc, ap_Q, ap100_Q, inp_Q, first_Q)


def on_grid(feature_ND: ArrayLike) -> Floats:
    """Features as multiples of 2^-26 of their longest row, so that inner products of two such sets are exact.

    Every sum of products is then a whole number of steps below 2^53 (Cauchy-Schwarz), whatever order it is added in.
    In plain float32 the same two rows have another product in another chunk or column: ties would depend on where
    rows lie.
    In rows of length 1 values from 1/8 on stay as they are, lesser ones move by at most 2^-27.
    """
    feature_ND = np.asarray(feature_ND, np.float32)
    if feature_ND.ndim != 2 or not np.isfinite(feature_ND).all():
        raise InputError(f"features must be finite numbers, rows x width, got {feature_ND.shape}")
    wide_ND = feature_ND.astype(np.float64)
    longest = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND).max(initial=0.0))
    # the quarter: a row of length 1.0000001 is one of length 1, and two such still stay below 2^53
    step = 2.0 ** (np.ceil(np.log2(longest) - 0.25) - GRID_BITS) if longest else 1.0
    wide_ND /= step
    np.rint(wide_ND, out=wide_ND)
    wide_ND *= step
    return wide_ND


def inner_products(query_QD: Floats, gallery_GD: Floats, chunk: int | None = None) -> Iterator[Singles]:
    """Inner products of rows that lie on a grid (`on_grid`), rounded to float32, `chunk` queries at a time."""
    if query_QD.shape[1] != gallery_GD.shape[1]:
        raise InputError(f"features must be as wide as the gallery's, {gallery_GD.shape[1]}, got {query_QD.shape[1]}")
    query, gallery = torch.from_numpy(query_QD), torch.from_numpy(gallery_GD).T
    for rows in _blocks((len(query_QD), len(gallery_GD)), chunk):
        yield torch.mm(query[rows], gallery).to(torch.float32).numpy()


def _blocks(shape: tuple[int, ...], chunk: int | None) -> Iterator[slice]:
    """Rows of a matrix of that shape, `chunk` at a time, or as many as BLOCK allows."""
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk must be >= 1, got {chunk}")
    size = chunk or max(1, BLOCK // max(shape[-1], 1))
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))


def _at_least(sorted_N: NDArray[np.floating], score_R: NDArray[np.floating]) -> Ints:
    """How many are as high as each score or higher."""
    return len(sorted_N) - np.searchsorted(sorted_N, score_R, "left")


def _truth(
    query_id_Q: ArrayLike, gallery_id_G: ArrayLike, query_camera_Q: ArrayLike | None, gallery_camera_G: ArrayLike | None
) -> RetrievalTruth:
    return RetrievalTruth(
        np.asarray(query_id_Q),
        np.asarray(gallery_id_G),
        None if query_camera_Q is None else np.asarray(query_camera_Q),
        None if gallery_camera_G is None else np.asarray(gallery_camera_G),
    )
