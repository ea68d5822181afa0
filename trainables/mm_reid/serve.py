"""A trained MmReid as a service: who of a gallery fits near infrared, sketch, colour pencil, words, or several.

Shapes: N samples, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.frames.cache import Frame, FrameCache, read_frame
from ...datasets.layouts.orbench import Orbench
from ...datasets.problems import InputError
from ..coercion import make_packaged_config
from ..reid.images import ImageReader
from ..reid.serving import GalleryRanker, decode, encode
from ..training.package import Package
from .config import MODALITIES, TEXT, VIS, Config
from .data import tokenize
from .evaluate import fused, parted
from .model import MmReid, build_model


class MultimodalRanker(GalleryRanker):
    """A model in eval mode and its post-hoc setting. A query has any of `nir`, `sk`, `cp` (image files) and `text`."""

    columns = MODALITIES[VIS + 1 :]

    def __init__(self, model: MmReid, config: Config, setting: Mapping[str, float]) -> None:
        self._mix, rest = parted(setting)
        super().__init__(rest)
        self.model = model.eval()
        self._images = ImageReader(config.height_px, config.width_px, FrameCache(0))

    def encode_images(self, images: Sequence[Frame]) -> Mapping[str, NDArray[Any]]:
        """`feature`, N x D: bn_features of vis images."""
        modality_N = np.full((len(images), 1), VIS)
        feature_ND = self._encode(images, modality_N[:, 0])
        return {"feature": fused(self.model, feature_ND, modality_N, np.arange(len(images))[:, None])}

    def encode_query(self, query: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
        """`feature`, 1 x D: the bn_feature of what is given. Raises InputError when nothing is."""
        given = tuple(m for m, name in enumerate(MODALITIES) if m != VIS and _is_given(query.get(name)))
        if not given:
            raise InputError(f"a query must have at least one of {', '.join(self.columns)}, got none")
        pictures = [m for m in given if m != TEXT]
        frames = [decode(query[MODALITIES[m]], MODALITIES[m]) for m in pictures]
        parts = [self._encode(frames, np.array(pictures, np.int64))]
        if TEXT in given:
            tokens = torch.from_numpy(tokenize([str(query["text"])], self.model.clip.sizes.context))
            with torch.no_grad():
                parts.append(self.model.encode_texts(tokens).numpy())
        feature_MD = np.concatenate(parts)  # text is the last modality: rows are in the order of `given`
        rows = np.arange(len(given))
        single_MD = fused(self.model, feature_MD, np.array(given)[:, None], rows[:, None])
        whole_1D = fused(self.model, feature_MD, np.array([given]), rows[None])
        return {"feature": self._mix(whole_1D, single_MD[None], given)}

    @torch.no_grad()
    def _encode(self, images: Sequence[Frame], modality_N: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = [self._images.resized(image) for image in images]
        size = (self._images.height_px, self._images.width_px, 3)
        image_NHW3 = np.stack(pixels) if pixels else np.zeros((0, *size), np.uint8)
        return self.model.encode_images(torch.from_numpy(image_NHW3), torch.from_numpy(modality_N)).numpy()


def _is_given(value: Any) -> bool:
    """A missing cell of a table of several queries may be None, NaN or empty."""
    return value is not None and value == value and (not isinstance(value, str | bytes) or bool(value.strip()))


def serve(package: Package) -> MultimodalRanker:
    """A packaged model, ready to rank galleries. Raises InputError when Config and weights don't fit."""
    config = make_packaged_config(Config, package.config)
    model = build_model(config, identities=1)  # the classifier takes as many as its weights have
    package.load_into(model)
    return MultimodalRanker(model, config, package.setting)


def example(data: Orbench, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`: all modalities of a person, and three people to choose from."""
    samples = data.samples("test").to_pylist()
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for sample in samples:
        first.setdefault((sample["modality"], sample["identity"]), sample)
    people = sorted({i for modality, i in first if modality == "vis"})
    person = max(people, key=lambda i: sum((m, i) in first for m in MODALITIES))  # who has most modalities
    shown = [person, *(i for i in people if i != person)][:3]
    of_person = {m: first[m, person] for m in MODALITIES[1:] if (m, person) in first}
    query = {m: [s["text"] if m == "text" else _file(data, s["path"])] for m, s in of_person.items()}
    return {"gallery": [[_file(data, first["vis", i]["path"]) for i in shown]], **query}


def _file(data: Orbench, path: str) -> str:
    return encode(read_frame(data.pictures, path, f"{data.store.uri}/{path}")[0])
