"""What k-reciprocal re-ranking computes (arXiv 1701.08398, sec. 3), in sparse matrices.

Neighbours are sought among queries and gallery together, as the authors do; a row is always its own.
Ties: of equally near rows all are neighbours or none. A row is among the k nearest if at most k others, itself one of
them, are as near. So nothing depends on the order of rows, and where everything is alike nobody gains a neighbour.

Shapes: N rows (queries, then gallery) of D, M neighbours kept, C queries of a block, G gallery rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array

from ..metrics.retrieval import Floats, Ints, Singles, inner_products

PAIRS = 1 << 22  # products of single features held at once


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest rows of each row."""

    feature_ND: Floats  # on the grid
    near_NM: Ints  # itself first
    score_NM: Singles  # their similarities, falling; its own is infinite
    least_N: Floats  # its lowest similarity to any row

    def within(self, k: int) -> Any:
        """N(p, k) and the row itself; N x N of 0 and 1."""
        row, place = np.nonzero(clear(self.score_NM, k + 1))
        ones = np.ones(len(row), np.int32)
        return csr_array((ones, (row, self.near_NM[row, place])), shape=(len(self.near_NM),) * 2)

    def distance(self, similarity: NDArray[np.floating], row: Ints) -> Floats:
        """Squared Euclidean distance of rows of length 1, over the farthest there is of `row` (the authors' scale).

        `row` is one for each row of the similarities.
        """
        farthest = np.maximum(1 - self.least_N[row], 1e-12)  # 0 where all rows are the same
        farthest = farthest.reshape(-1, *[1] * (similarity.ndim - 1))
        return np.maximum(1 - similarity.astype(np.float64), 0) / farthest


def neighbours(feature_ND: Floats, most: int) -> Neighbours:
    """Each row with its `most` nearest others and the one after, or all there are."""
    nearest_of: list[tuple[Ints, Singles]] = []  # columns and similarities, block by block
    least_N = np.empty(len(feature_ND))
    start = 0
    for similarity_CN in inner_products(feature_ND, feature_ND):
        at = np.arange(start, start + len(similarity_CN))
        least_N[at] = similarity_CN.min(1)
        similarity_CN[at - start, at] = np.inf
        nearest_of.append(nearest(similarity_CN, most + 2))
        start += len(similarity_CN)
    near, score = zip(*nearest_of, strict=True)
    return Neighbours(feature_ND, np.concatenate(near), np.concatenate(score), least_N)


def nearest(similarity_CN: Singles, count: int) -> tuple[Ints, Singles]:
    """Columns of the `count` highest values of each row, or of all there are, and the values, best first."""
    score, column = torch.topk(torch.from_numpy(similarity_CN), min(count, similarity_CN.shape[1]))
    return column.numpy(), score.numpy()


def clear(score_NM: Singles, k: int) -> NDArray[np.bool_]:
    """Which of falling scores are among the k highest for certain: above the one after."""
    if k >= score_NM.shape[1]:
        return np.ones(score_NM.shape, bool)
    return score_NM > score_NM[:, k : k + 1]


def reciprocal(near: Neighbours, k: int) -> Any:
    """R(p, k), eq. 3: rows that are each other's k nearest; N x N of 0 and 1."""
    forward = near.within(k)
    return csr_array(forward.multiply(forward.T))


def expanded(near: Neighbours, k: int) -> Any:
    """R*(p, k), eq. 5: with R(q, k/2) of each q of R(p, k) that has two thirds of it in R(p, k).

    The authors' code asks for more than two thirds, the paper for at least that: we do as the paper says.
    """
    full, half = reciprocal(near, k), reciprocal(near, round(k / 2))
    shared = coo_array((full @ half.T).multiply(full))  # |R(p, k) and R(q, k/2)| for q of R(p, k)
    size_N = half.sum(1)
    taken = 3 * shared.data >= 2 * size_N[shared.col]
    joins = csr_array((np.ones(taken.sum(), np.int32), (shared.row[taken], shared.col[taken])), shape=full.shape)
    return csr_array(full + joins @ half)


def encode(near: Neighbours, k: int) -> Any:
    """V, eq. 7: a row's weights of the rows in its R*, exp(-distance), of sum 1 (the authors' code); N x N."""
    sets = coo_array(expanded(near, k))
    weight = np.empty(len(sets.row))
    step = max(1, PAIRS // near.feature_ND.shape[1])
    for start in range(0, len(weight), step):
        row, col = sets.row[start : start + step], sets.col[start : start + step]
        # exact, therefore the same as in a product of matrices
        similarity = np.einsum("pd,pd->p", near.feature_ND[row], near.feature_ND[col]).astype(np.float32)
        weight[start : start + step] = np.exp(-near.distance(similarity, row))
    total_N = np.bincount(sets.row, weight, minlength=len(near.near_NM))
    return csr_array((weight / total_N[sets.row], (sets.row, sets.col)), shape=sets.shape)


def smooth(encoded_NN: Any, near: Neighbours, k: int) -> Any:
    """Local query expansion, eq. 11: the mean V of the k nearest rows, itself one of them."""
    if k == 1:
        return encoded_NN
    taken = near.within(k - 1)
    return csr_array(diags_array(1 / taken.sum(1)) @ (taken @ encoded_NN))


def jaccard(query_CN: Any, gallery_NG: Any) -> Singles:
    """Jaccard distance, eq. 10: 1 - sum of smaller weights / sum of larger ones; C x G.

    `gallery_NG` holds the gallery's V transposed. The weights of a row sum to 1, so that of two rows the larger ones
    sum to 2 less the smaller ones.
    """
    queries, gallery = query_CN.shape[0], gallery_NG.shape[1]
    first, count = gallery_NG.indptr[query_CN.indices], np.diff(gallery_NG.indptr)[query_CN.indices]
    # entry by entry of the queries, all gallery entries of the same column of V
    total = int(count.sum())
    entry = np.repeat(np.arange(len(count)), count)
    at = np.arange(total) + np.repeat(first - (np.cumsum(count) - count), count)
    query = np.repeat(np.arange(queries), np.diff(query_CN.indptr))
    smaller = np.minimum(query_CN.data[entry], gallery_NG.data[at])
    cell = query[entry] * gallery + gallery_NG.indices[at]
    shared = np.bincount(cell, smaller, minlength=queries * gallery).reshape(queries, gallery)
    return (1 - shared / (2 - shared)).astype(np.float32)
