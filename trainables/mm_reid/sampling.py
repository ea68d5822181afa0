"""Which persons a batch holds, and in which modalities: P identities, K rows of each, everything random drawn here.

A row is one look at a person: at most one sample of each modality. What modality dropout takes away is not read.

Shapes: R rows of an epoch, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray

from ...datasets.problems import DataError, Problem
from .model import MODALITIES

VIS = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How rows are drawn."""

    identities: int = 8  # P, of a batch
    rows: int = 4  # K, of each
    dropout: float = 0.3  # chance that a modality is left out of a row
    min_modalities: int = 1  # that stay in a row, where the identity has as many
    visits: int = 1  # of an epoch to each identity


class Pools:
    """The samples of a split by identity and modality, as rows of its table.

    `unpaired` counts identities without a vis sample or without any other: they have nothing to be aligned with
    and are left out.
    """

    def __init__(self, samples: pa.Table) -> None:
        modality = np.array(samples.column("modality").to_pylist(), np.str_)
        identity = samples.column("identity").to_numpy()
        self.identities: list[int] = []
        self.rows: list[list[NDArray[np.int64]]] = []
        self.unpaired = 0
        for person in np.unique(identity):
            own = np.flatnonzero(identity == person)
            pools = [own[modality[own] == name] for name in MODALITIES]
            if not len(pools[VIS]) or not any(len(pool) for pool in pools[1:]):
                self.unpaired += 1
                continue
            self.identities.append(int(person))
            self.rows.append(pools)

    def __len__(self) -> int:
        return len(self.identities)

    def check(self) -> None:
        """Raises DataError where there are fewer than two identities to tell apart."""
        if len(self) < 2:
            what = f"training needs 2 identities with vis and another modality, got {len(self)}"
            left = f"; {self.unpaired} have only one of both" if self.unpaired else ""
            raise DataError([Problem("train", what + left)])


def draw(pools: Pools, sampling: Sampling, rng: Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One epoch: (the identity's number of each row, the sample of each modality in it or -1, R x M).

    Batches follow each other, the rows of an identity too; the last batch is filled up with identities drawn anew,
    so that each has P different ones, or all where there are fewer.
    """
    s = sampling
    p = min(s.identities, len(pools))
    order = np.concatenate([_visit(len(pools), p, rng) for _ in range(s.visits)])
    label = np.repeat(order, s.rows)
    found = np.concatenate([_rows(pools.rows[identity], s, rng) for identity in order])
    return label, found


def _visit(count: int, p: int, rng: Generator) -> NDArray[np.int64]:
    """All identities in random order, and as many again as the last batch lacks."""
    order = rng.permutation(count)
    open_places = -count % p
    last = order[count - (count % p) :]
    return np.concatenate([order, rng.permutation(np.setdiff1d(order, last))[:open_places]])


def _rows(pools: Sequence[NDArray[np.int64]], s: Sampling, rng: Generator) -> NDArray[np.int64]:
    """K rows of an identity, K x M: samples come again only when all were used, and among the rows there is
    at least one with vis and one with something else."""
    found = np.full((s.rows, len(pools)), -1, np.int64)
    for modality, pool in enumerate(pools):
        if len(pool):
            rounds = [rng.permutation(pool) for _ in range(-(-s.rows // len(pool)))]
            found[:, modality] = np.concatenate(rounds)[: s.rows]
    there = found >= 0
    order = rng.random(found.shape)
    rank = np.where(there, order, 2.0).argsort(1).argsort(1)  # which modalities stay first
    kept = there & ((rng.random(found.shape) >= s.dropout) | (rank < s.min_modalities))
    for some in (slice(VIS, VIS + 1), slice(VIS + 1, None)):
        if not kept[:, some].any():
            row, modality = rng.integers(s.rows), rng.choice(np.flatnonzero(there[0, some]))
            kept[row, some.start + modality] = True
    return np.where(kept, found, -1)
