"""A trained `t2i_reid` answering: which pictures show the person that a text describes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.frames.cache import Frame
from ...datasets.problems import InputError
from ..reid.images import ImageReader
from ..reid.serving import GalleryAnswers
from .model import T2iReid
from .predict import Features, matches
from .texts import TextTable


class Answers(GalleryAnswers):
    """A model in eval mode and its post-hoc setting; a query is its `text`."""

    columns = ("text",)

    def __init__(
        self, model: T2iReid, table: TextTable, images: ImageReader, setting: Mapping[str, float], fusion_top: int
    ) -> None:
        super().__init__(setting)
        self.model, self.table, self.images, self.fusion_top = model.eval(), table, images, fusion_top
        self._features = Features(self.model, table)

    def encode_images(self, images: Sequence[Frame]) -> Mapping[str, NDArray[Any]]:
        whole_NHW3 = np.stack([self.images.resized(image) for image in images])
        return self._features.of_pictures(torch.from_numpy(whole_NHW3))

    def encode_query(self, query: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
        text = str(query.get("text") or "").strip()
        if not text:
            raise InputError("a query must have a text, got none")
        return self._features.of_texts(self.table.ids(self.table.add([text])))

    def bonus(self, query: Mapping[str, NDArray[Any]], gallery: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return matches(self.model, dict(query), dict(gallery), self.fusion_top)
