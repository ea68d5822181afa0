"""The data of `t2i_reid`: plans of training rows and of the pictures and captions of a split, and how they are read.

A training row is a caption with its picture, its part on identity, its part on clothing, and, where it was drawn, a
caption of another person's clothing. Captions belong to pictures: each is used with its own.

Shapes: C captions, N rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import Generator
from numpy.typing import NDArray

from ...datasets.layouts.cuhk_pedes import SPLITS, PersonText, check, find_annotations
from ...datasets.problems import DataError, InputError, Problem
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..reid.images import ImageReader, draw_augmentation
from .alike import AlikeTexts
from .config import Config

if TYPE_CHECKING:
    from .texts import TextTable

Ints = NDArray[np.int64]


def open_data(store: Store | None) -> PersonText:
    """The data set at `store`, in the layout of CUHK-PEDES, ICFG-PEDES or RSTPReid. Raises InputError for none,
    DataError for one with faults."""
    if store is None:
        raise InputError("t2i_reid needs data, got none")
    return PersonText(store)


def check_data(store: Store) -> None:
    """Raises DataError with all that is wrong and can be seen without decoding pictures."""
    check(store, decode=False).refuse()
    data = PersonText(store)
    empty = [split for split in SPLITS[:-1] if not data.captions(split).num_rows]
    if empty:
        raise DataError(
            [Problem(data.annotations, f"split {split} has no caption: there is nothing to ask") for split in empty]
        )


def gallery(store: Store, split: str) -> pa.Table | None:
    """`path` and `identity` of a split's pictures; None where there is no such data set."""
    return PersonText(store).images(split) if find_annotations(store) is not None else None


class TrainingSet:
    """The captions of the training split, with numbers for people and texts."""

    def __init__(self, images: pa.Table, captions: pa.Table, table: TextTable) -> None:
        image_C = captions.column("image").to_numpy()
        identities, label_I = np.unique(images.column("identity").to_numpy(), return_inverse=True)
        self.identities = len(identities)
        if self.identities < 2:
            what = f"training needs at least two identities, in each batch too, got {self.identities}"
            raise DataError([Problem("train", what)])
        self.path_C = images.column("path").take(pa.array(image_C))
        self.label_C: Ints = label_I[image_C].astype(np.int64)
        whole, identity, clothing = (_texts(captions, n) for n in ("text", "identity_text", "clothing_text"))
        # a caption that is silent on one of them stands for it whole
        clothing = [part or text for part, text in zip(clothing, whole, strict=True)]
        self.caption_C = table.add(whole)
        self.identity_C = table.add([part or text for part, text in zip(identity, whole, strict=True)])
        self.clothing_C = table.add(clothing)
        self.alike = AlikeTexts(clothing)

    def __len__(self) -> int:
        return len(self.label_C)


def _texts(captions: pa.Table, name: str) -> list[str]:
    return [(text or "").strip() for text in captions.column(name).to_pylist()]


def training_plan(training: TrainingSet, config: Config, rng: Generator) -> pa.Table:
    """One epoch: every caption once, and some twice where a batch would else be of one person."""
    groups = _groups(training.label_C, config.group_rows, rng)
    of_person = training.label_C[[group[0] for group in groups]]
    order = mixed_batches(of_person, config.batch // config.group_rows, rng)
    row_N = np.array([row for at in order for row in groups[at]], np.int64)
    other_N = training.alike.hardest(row_N, training.label_C[row_N], training.label_C, config.hard_pool, rng)
    other_N[rng.random(len(row_N)) >= config.unmatched] = -1
    return pa.table(
        {
            "path": training.path_C.take(pa.array(row_N)),
            "label": training.label_C[row_N],
            "caption": training.caption_C[row_N],
            "identity_text": training.identity_C[row_N],
            "clothing_text": training.clothing_C[row_N],
            "other_text": np.where(other_N < 0, -1, training.clothing_C[other_N]),
            "other_label": np.where(other_N < 0, -1, training.label_C[other_N]),
            **draw_augmentation(config, len(row_N), rng),
        }
    )


def _groups(label_C: Ints, size: int, rng: Generator) -> list[list[int]]:
    """Every row in a group of `size` of one person; a person's last group is filled up with rows drawn again."""
    if size == 1:
        return [[row] for row in range(len(label_C))]
    groups = []
    for rows in np.split(np.argsort(label_C, kind="stable"), np.cumsum(np.bincount(label_C))[:-1]):
        shuffled = rng.permutation(rows)
        missing = -len(rows) % size
        filled = np.concatenate([shuffled, rng.choice(rows, missing, replace=missing > len(rows))])
        groups += filled.reshape(-1, size).tolist()
    return groups


def mixed_batches(person_N: Sequence[int] | Ints, size: int, rng: Generator) -> list[int]:
    """All items in random order such that each stretch of `size`, the last and shorter one too, has two people or more.

    Where chance gives one person alone, somebody else is brought forward; where nobody else is left, an item comes
    twice. `size` is 2 or more, and there are two people.
    """
    waiting = deque(rng.permutation(len(person_N)).tolist())
    order: list[int] = []
    while waiting:
        batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        first = person_N[batch[0]]
        if all(person_N[item] == first for item in batch):
            other = next((item for item in waiting if person_N[item] != first), None)
            if other is None:
                other = int(rng.choice(np.flatnonzero(np.asarray(person_N) != first)))
            else:
                waiting.remove(other)
            if len(batch) == size:
                waiting.appendleft(batch.pop())
            batch.append(other)
        order += batch
    return order


def evaluation_plan(paths: Sequence[str], query_numbers: Ints) -> pa.Table:
    """The pictures of a split, then its queries by the numbers of their texts."""
    pictures, queries = len(paths), len(query_numbers)
    return pa.table(
        {
            "path": pa.array([*paths, *[""] * queries], pa.string()),
            "text": np.concatenate([np.full(pictures, -1), query_numbers]).astype(np.int64),
        }
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Rows of a plan to arrays: pictures as bytes, texts as their numbers. Runs in data workers."""

    images: ImageReader

    def __call__(self, rows: pa.Table, store: Store) -> Arrays:
        """`image` of the rows that have one; each other column as it is."""
        pictured = rows.filter(pc.not_equal(rows.column("path"), ""))
        numbers = (n for n in rows.column_names if n not in ("path", "flip", "window", "erased"))
        columns: dict[str, Any] = {name: rows.column(name).to_numpy().copy() for name in numbers}
        return {"image": self.images(pictured, store), **columns}
