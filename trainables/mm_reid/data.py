"""Rows of looks at persons: which images and words each has, and how they become arrays.

Shapes: B rows, N images of all rows together, E texts of them, T tokens, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import open_clip
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray

from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..reid.images import Augmentation, ImageReader
from .model import TEXT


def make_rows(
    samples: pa.Table,
    found_BM: NDArray[np.int64],
    label_B: NDArray[np.int64] | Sequence[int],
    augmentation: Augmentation | None = None,
    rng: Generator | None = None,
) -> pa.Table:
    """A plan: `label`, `images` (modality, path, and how each is varied), `text` ("" where there is none).

    `found_BM` are rows of `samples`, -1 where a modality is missing.
    """
    row_N, modality_N = np.nonzero(found_BM[:, :TEXT] >= 0)
    columns: dict[str, pa.Array] = {
        "modality": pa.array(modality_N, pa.int64()),
        "path": samples.column("path").combine_chunks().take(pa.array(found_BM[row_N, modality_N])),
    }
    if augmentation is not None and rng is not None:
        columns |= augmentation.draw(len(row_N), rng)
    images = pa.StructArray.from_arrays(list(columns.values()), list(columns))
    offsets = np.searchsorted(row_N, np.arange(len(found_BM) + 1)).astype(np.int32)
    texts = samples.column("text").to_pylist()
    return pa.table(
        {
            "label": pa.array(np.asarray(label_B), pa.int64()),
            "images": pa.ListArray.from_arrays(pa.array(offsets), images),
            "text": pa.array([texts[i] if i >= 0 else "" for i in found_BM[:, TEXT].tolist()], pa.string()),
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
    return open_clip.SimpleTokenizer(context_length=context)
