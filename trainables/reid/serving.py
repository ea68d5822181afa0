"""A trained model as a service: which pictures of a gallery show the person that a query describes?

A row is a query and its gallery. A gallery that is searched many times is encoded once: `gallery`, then `rank`.

Shapes: G gallery rows, D width.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.frames.decode import Frame, decode_given
from ...datasets.problems import InputError
from ..posthoc.reranking import Features
from . import evaluation

Content = bytes | str
BATCH = 32


class GalleryRanker(ABC):
    """A served re-identification model, a `contract.RankingModel`; each says what a query is and how to encode it."""

    columns: tuple[str, ...]  # that a query may have

    def __init__(self, setting: Mapping[str, float]) -> None:
        self.setting = dict(setting)

    @abstractmethod
    def encode_images(self, images: Sequence[Frame]) -> Mapping[str, NDArray[Any]]:
        """Gallery pictures as arrays, a row each: `feature` (G x D, of length 1) and what else `bonus` reads."""

    @abstractmethod
    def encode_query(self, query: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
        """A query as arrays of one row, with `feature` 1 x D. Raises InputError when there is nothing to ask for."""

    def bonus(self, query: Mapping[str, NDArray[Any]], gallery: Mapping[str, NDArray[Any]]) -> Any:
        """The second similarity of an encoded query and gallery, 1 x G, or None."""
        return None

    def gallery(self, images: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """An encoded gallery, of PNG or JPEG files as bytes or base64. Raises InputError for one that won't decode."""
        if not len(images):
            raise InputError("gallery must hold at least one image, got none")
        encoded = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            encoded.append(self.encode_images([decode(c, f"gallery image {start + i}") for i, c in enumerate(part)]))
        return {name: np.concatenate([arrays[name] for arrays in encoded]) for name in encoded[0]}

    def rank(self, query: Mapping[str, Any], gallery: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """How well each picture of an encoded gallery fits, G; larger is better. With re-ranking minus a distance."""
        encoded = self.encode_query(query)
        bonus_1G = self.bonus(encoded, gallery) if self.setting.get("bonus") else None
        features = Features.of(encoded["feature"], gallery["feature"])
        return np.asarray(evaluation.similarities(features, self.setting, bonus_1G)[0])

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Each row has a query's columns and `gallery`, a list of image files as bytes or base64.

        Gives `order` (rows of the gallery, best first) and `score` (of each, in that order).
        """
        order, score = [], []
        names = [name for name in self.columns if name in rows]
        for index, images in enumerate(rows["gallery"]):
            score_G = self.rank({name: rows[name][index] for name in names}, self.gallery(list(images)))
            best = np.argsort(-score_G, kind="stable")
            order.append(best.tolist())
            score.append(score_G[best].tolist())
        return {"order": order, "score": score}


def decode(content: Content, where: str) -> Frame:
    """An image file as RGB, H x W x 3, upright. Raises InputError that says where it was."""
    return decode_given(content, where)


def encode(content: bytes) -> str:
    """An image file as base64, which survives JSON."""
    return base64.b64encode(content).decode()
