"""The data of mm_reid: which persons a batch holds, in which modalities, and how plans become arrays.

A training batch has P identities with K rows each. A row is one look at a person: at most one sample of each modality.
Everything random is drawn in the plan; what modality dropout takes away is not read.

Shapes: R rows of an epoch, B rows, N images of all rows together, E texts of them, T tokens, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import Generator
from numpy.typing import NDArray

from ...datasets.layouts.orbench import SPLITS, Orbench, check, holds
from ...datasets.problems import DataError, InputError, Problem
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..reid.images import ImageReader, draw_augmentation
from .config import MODALITIES, TEXT, VIS, Config

if TYPE_CHECKING:
    import open_clip


def open_data(store: Store | None) -> Orbench:
    """The data set at `store`, in ORBench's layout. Raises InputError for none, DataError for one with faults."""
    if store is None:
        raise InputError("mm_reid needs data, got none")
    return Orbench(store)


def check_data(store: Store) -> None:
    """Raises DataError with all that is wrong and can be seen without decoding images."""
    check(store, decode=False).refuse()
    data = Orbench(store)
    what = "has no identity with vis and another modality: there is nothing to measure"
    unpaired = [split for split in SPLITS[:-1] if not len(Pools(data.samples(split)))]
    if unpaired:
        raise DataError([Problem(store.uri, f"split {split} {what}") for split in unpaired])


def gallery(store: Store, split: str) -> pa.Table | None:
    """`path` and `identity` of a split's photographs; None where there is no such data set."""
    if not holds(store):
        return None
    samples = Orbench(store).samples(split)
    return samples.filter(pc.equal(samples["modality"], MODALITIES[VIS]))


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


def draw(pools: Pools, config: Config, rng: Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One epoch: (the identity's number of each row, the sample of each modality in it or -1, R x M).

    Batches follow each other, the rows of an identity too; the last batch is filled up with identities drawn anew,
    so that each has P different ones, or all where there are fewer.
    """
    p = min(config.identities_a_batch, len(pools))
    order = np.concatenate([_visit(len(pools), p, rng) for _ in range(config.visits)])
    label_R = np.repeat(order, config.per_identity)
    sample_RM = np.concatenate([_rows(pools.rows[identity], config, rng) for identity in order])
    return label_R, sample_RM


def _visit(count: int, p: int, rng: Generator) -> NDArray[np.int64]:
    """All identities in random order, and as many again as the last batch lacks."""
    order = rng.permutation(count)
    open_places = -count % p
    last = order[count - (count % p) :]
    return np.concatenate([order, rng.permutation(np.setdiff1d(order, last))[:open_places]])


def _rows(pools: Sequence[NDArray[np.int64]], config: Config, rng: Generator) -> NDArray[np.int64]:
    """K rows of an identity, K x M: samples come again only when all were used, and among the rows there is
    at least one with vis and one with something else."""
    rows = config.per_identity
    sample_KM = np.full((rows, len(pools)), -1, np.int64)
    for modality, pool in enumerate(pools):
        if len(pool):
            rounds = [rng.permutation(pool) for _ in range(-(-rows // len(pool)))]
            sample_KM[:, modality] = np.concatenate(rounds)[:rows]
    there_KM = sample_KM >= 0
    order_KM = rng.random(sample_KM.shape)
    rank_KM = np.where(there_KM, order_KM, 2.0).argsort(1).argsort(1)  # which modalities stay first
    kept_KM = rng.random(sample_KM.shape) >= config.modality_dropout
    kept_KM = there_KM & (kept_KM | (rank_KM < config.min_modalities))
    for some in (slice(VIS, VIS + 1), slice(VIS + 1, None)):
        if not kept_KM[:, some].any():
            row, modality = rng.integers(rows), rng.choice(np.flatnonzero(there_KM[0, some]))
            kept_KM[row, some.start + modality] = True
    return np.where(kept_KM, sample_KM, -1)


def training_plan(samples: pa.Table, pools: Pools, config: Config, rng: Generator) -> pa.Table:
    """One epoch: P identities of K rows each, batch by batch. Raises DataError for fewer than two identities."""
    pools.check()
    label_R, sample_RM = draw(pools, config, rng)
    return make_rows(samples, sample_RM, label_R, config, rng)


def make_rows(
    samples: pa.Table,
    sample_BM: NDArray[np.int64],
    label_B: NDArray[np.int64] | Sequence[int],
    augmented: Config | None = None,
    rng: Generator | None = None,
) -> pa.Table:
    """A plan: `label`, `images` (modality, path, and how each is varied), `text` ("" where there is none).

    `sample_BM` are rows of `samples`, -1 where a modality is missing. With `augmented` and `rng` images are varied.
    """
    row_N, modality_N = np.nonzero(sample_BM[:, :TEXT] >= 0)
    columns: dict[str, pa.Array] = {
        "modality": pa.array(modality_N, pa.int64()),
        "path": samples.column("path").combine_chunks().take(pa.array(sample_BM[row_N, modality_N])),
    }
    if augmented is not None and rng is not None:
        columns |= draw_augmentation(augmented, len(row_N), rng)
    images = pa.StructArray.from_arrays(list(columns.values()), list(columns))
    offsets = np.searchsorted(row_N, np.arange(len(sample_BM) + 1)).astype(np.int32)
    texts = samples.column("text").to_pylist()
    return pa.table(
        {
            "label": pa.array(np.asarray(label_B), pa.int64()),
            "images": pa.ListArray.from_arrays(pa.array(offsets), images),
            "text": pa.array([texts[i] if i >= 0 else "" for i in sample_BM[:, TEXT].tolist()], pa.string()),
        }
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Rows of a plan to arrays; images of all rows in one array, with the row and the modality of each."""

    images: ImageReader
    context: int  # tokens of a text

    def __call__(self, rows: pa.Table, store: Store) -> Arrays:
        """`image` N x H x W x 3 bytes, `modality` and `image_row` N, `token` E x T, `text_row` E, `label` B."""
        images = rows.column("images").combine_chunks()
        flat = pa.Table.from_batches([pa.RecordBatch.from_struct_array(images.flatten())])
        counts_B = images.value_lengths().to_numpy(zero_copy_only=False)
        texts = rows.column("text").to_pylist()
        text_row_E = np.array([row for row, text in enumerate(texts) if text], np.int64)
        return {
            "image": self.images(flat, store),
            "modality": flat.column("modality").to_numpy().astype(np.int64),
            "image_row": np.repeat(np.arange(rows.num_rows), counts_B),
            "token": tokenize([texts[row] for row in text_row_E], self.context),
            "text_row": text_row_E,
            "label": rows.column("label").to_numpy().astype(np.int64),
        }


def tokenize(texts: Sequence[str], context: int) -> NDArray[np.int64]:
    """CLIP's BPE ids, E x T; longer texts are cut, their end kept."""
    rows = [_tokens(text, context) for text in texts]
    return np.stack(rows) if rows else np.zeros((0, context), np.int64)


@lru_cache(maxsize=100_000)
def _tokens(text: str, context: int) -> NDArray[np.int64]:
    return np.asarray(_tokenizer(context)([text])[0].numpy(), np.int64)


def cut_texts(texts: Sequence[str], context: int) -> int:
    """How many of them are longer than the context."""
    encode = _tokenizer(context).encode
    return sum(len(encode(text)) > context - 2 for text in texts)


@lru_cache(maxsize=4)
def _tokenizer(context: int) -> open_clip.SimpleTokenizer:
    import open_clip  # here: it imports torch, which checking data does not wait for

    return open_clip.SimpleTokenizer(context_length=context)
