"""A trained `t2i_reid` as a service: which pictures show the person that a text describes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.frames.cache import Frame, FrameCache, read_frame
from ...datasets.layouts.cuhk_pedes import SPLITS, PersonText
from ...datasets.problems import InputError
from ..coercion import make_packaged_config
from ..reid.images import ImageReader
from ..reid.serving import GalleryRanker, encode
from ..training.package import Package
from .config import Config
from .model import T2iReid, build_model
from .predict import FeaturePredictor, matches
from .texts import TextTable, make_table


class TextRanker(GalleryRanker):
    """A model in eval mode and its post-hoc setting; a query is its `text`."""

    columns = ("text",)

    def __init__(self, model: T2iReid, table: TextTable, config: Config, setting: Mapping[str, float]) -> None:
        super().__init__(setting)
        self.model, self.table, self.fusion_top = model.eval(), table, config.fusion_top
        self.images = ImageReader(config.height_px, config.width_px, FrameCache(0))
        self._features = FeaturePredictor(self.model, table)

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


def serve(package: Package) -> TextRanker:
    """A packaged model, ready to rank galleries. Raises InputError when Config and weights don't fit."""
    config = make_packaged_config(Config, package.config)
    model = build_model(config, package.rows_of("classifier.weight"))
    package.load_into(model)
    return TextRanker(model, make_table(config, package.facts), config, package.setting)


def example(data: PersonText, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`: a caption, of the test split where it has one, and three pictures;
    base64, since it must survive JSON."""
    paths = data.images("test").column("path").to_pylist()[:3]
    captions = (text for split in reversed(SPLITS) for text in data.captions(split).column("text").to_pylist())
    files = [read_frame(data.pictures, path, f"{data.store.uri}/{path}")[0] for path in paths]
    return {"text": [next(captions)], "gallery": [[encode(file) for file in files]]}
