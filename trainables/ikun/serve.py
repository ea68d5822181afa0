"""A trained iKUN as a service: does this window of a track fit this expression? Which boxes of a video does it mean?"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.frames.cache import square
from ...datasets.frames.decode import decode_given
from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ...datasets.problems import InputError
from ..coercion import make_packaged_config
from ..metrics.tracking import Boxes
from ..posthoc.calibration import threshold_of
from ..training.package import Package
from .config import Config
from .evaluate import Prior
from .model import Ikun, build_model, channels_first
from .scoring import Scorer
from .windows import geometry, windows_of

COLUMNS = ("frames", "boxes", "frame_numbers", "expression")


class WindowScorer:
    """A model in eval mode, its post-hoc setting, and the training expressions that calibration compares with."""

    def __init__(self, model: Ikun, setting: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        self.model, self.config = model.eval(), model.config
        self.setting = {"a": 0.0, "tau": 1.0, "threshold": 0.0, **setting}
        self._facts = facts

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Scores windows: each row has `frames` (the images that are looked at, PNG or JPEG, as bytes or base64),
        `boxes` (x1, y1, x2, y2 in pixels of each), `frame_numbers`, and an `expression`.

        Gives `score` (cosine, -1..1) and `refers` (whether it exceeds the calibrated threshold).
        """
        scores = [self._window(*row) for row in zip(*(rows[c] for c in COLUMNS), strict=True)]
        threshold = self.thresholds([str(e) for e in rows["expression"]])
        return {"score": scores, "refers": [bool(s > t) for s, t in zip(scores, threshold, strict=True)]}

    def _window(self, frames: Sequence[bytes | str], boxes: Any, numbers: Sequence[int], expression: str) -> float:
        images = [decode_given(f, f"frame {i}", turn=False) for i, f in enumerate(frames)]
        xyxy = np.array([list(b) for b in boxes], np.float64).reshape(len(images), 4)
        height, width = images[0].shape[:2]
        # the boxes given are taken for one unbroken track
        order = np.arange(len(images))
        place = geometry(Boxes(order, np.zeros(len(images), np.int64), xyxy), (width, height), len(images))
        span = max(int(numbers[-1]) - int(numbers[0]), 1) / max(len(images) - 1, 1)
        place[:, 4:] *= self.config.window_frames / (2 * len(images) * span)
        whole = np.stack([square(i, (0, 0, i.shape[1], i.shape[0]), self.config.frame_px) for i in images])
        crops = np.stack([square(i, b, self.config.crop_px) for i, b in zip(images, xyxy, strict=True)])
        scorer = Scorer(self.model, self.model.clip.tokenize([normalise(expression)]))
        crop_NED = scorer.crops(
            channels_first(torch.from_numpy(whole)),
            channels_first(torch.from_numpy(crops)),
            torch.arange(len(images)),
            torch.from_numpy(place) if self.config.geometry else None,
        )
        return float(scorer.windows(crop_NED, torch.arange(len(images))[None])[0, 0])

    def thresholds(self, expressions: Sequence[str]) -> NDArray[np.float64]:
        """The raw score that each expression's boxes must exceed."""
        texts = [normalise(e) for e in expressions]
        prior = Prior.make(self.model, self._facts, texts).of(texts, self.setting["tau"])
        return threshold_of(prior, self.setting["a"], self.setting["threshold"])


def serve(package: Package) -> WindowScorer:
    """A packaged model, ready to score windows. Raises InputError when Config and weights don't fit."""
    model = build_model(make_packaged_config(Config, package.config))
    package.load_into(model)
    return WindowScorer(model, package.setting, package.facts)


def example(data: ReferKitti, config: Config) -> dict[str, list[Any]]:
    """A row of real input for `serve(...).predict`: a window of a test video, or of another where nothing is tracked in
    those; base64, since it must survive JSON. Raises InputError where no video has a window and an expression."""
    for video in (video for split in ("test", "validation", "calibration") for video in data.videos(split)):
        tracks, expressions = data.tracks(video, config.tracks), data.expressions(video)
        if not len(tracks) or not expressions:
            continue
        boxes = Boxes(tracks.frame_N, tracks.id_N, tracks.xyxy_N4)
        look = windows_of(boxes, config.window_frames, config.window_frames, config.looks).looked_WT[0]
        return {
            "frames": [[base64.b64encode(data.frame_file(video, int(f))).decode() for f in boxes.frame_N[look]]],
            "boxes": [boxes.xyxy_N4[look].tolist()],
            "frame_numbers": [boxes.frame_N[look].tolist()],
            "expression": [expressions[0].replace("-", " ")],
        }
    raise InputError(f"{data.store.uri} has no video with tracks in {config.tracks}/ and an expression: no example")
