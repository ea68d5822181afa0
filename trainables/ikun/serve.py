"""A trained iKUN answering: does this stretch of a track fit this expression? Which boxes of a video does it mean?"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...datasets.frames.cache import square
from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ...datasets.stream import cut, stream
from ..metrics.tracking import Boxes, Matches
from ..posthoc.calibration import expression_prior, threshold_of
from .data import Reader, scoring_plan
from .evaluate import VideoTruth
from .model import Ikun
from .predict import WindowScores
from .scoring import Scorer
from .windows import geometry, windows_of

COLUMNS = ("frames", "boxes", "frame_numbers", "expression")


class Answers:
    """A model in eval mode, its post-hoc setting, and the training expressions that calibration compares with."""

    def __init__(self, model: Ikun, config: Any, setting: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        self.model, self.config = model.eval(), config
        self.setting = {"a": 0.0, "tau": 1.0, "threshold": 0.0, **setting}
        self._train_texts, self._share = list(facts["texts"]), np.array(facts["share"])

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Scores windows: each row has `frames` (the images that are looked at, PNG or JPEG, as bytes or base64),
        `boxes` (x1, y1, x2, y2 in pixels of each), `frame_numbers`, and an `expression`.

        Gives `score` (cosine, -1..1) and `refers` (whether it exceeds the calibrated threshold).
        """
        scores = [self._window(*row) for row in zip(*(rows[c] for c in COLUMNS), strict=True)]
        threshold = self.thresholds([str(e) for e in rows["expression"]])
        return {"score": scores, "refers": [bool(s > t) for s, t in zip(scores, threshold, strict=True)]}

    def _window(self, frames: Sequence[bytes | str], boxes: Any, numbers: Sequence[int], expression: str) -> float:
        content = [base64.b64decode(f) if isinstance(f, str) else bytes(f) for f in frames]
        images = [np.asarray(Image.open(io.BytesIO(c)).convert("RGB")) for c in content]
        xyxy = np.array([list(b) for b in boxes], np.float64).reshape(len(images), 4)
        height, width = images[0].shape[:2]
        # the boxes given are taken for one unbroken track
        order = np.arange(len(images))
        place = geometry(Boxes(order, np.zeros(len(images), np.int64), xyxy), (width, height), len(images))
        span = max(int(numbers[-1]) - int(numbers[0]), 1) / max(len(images) - 1, 1)
        place[:, 4:] *= self.config.window_frames / (2 * len(images) * span)
        whole = np.stack([square(i, (0, 0, i.shape[1], i.shape[0]), self.config.frame_px) for i in images])
        crops = np.stack([square(i, b, self.config.crop_px) for i, b in zip(images, xyxy, strict=True)])
        scorer = Scorer(self.model, self._tokens([expression]))
        found = scorer.crops(
            self._images(whole),
            self._images(crops),
            torch.arange(len(images)),
            torch.from_numpy(place) if self.config.geometry else None,
        )
        return float(scorer.windows(found, torch.arange(len(images))[None])[0, 0])

    def thresholds(self, expressions: Sequence[str]) -> NDArray[np.float64]:
        """The raw score that each expression's boxes must exceed."""
        features = self._features([normalise(e) for e in expressions] + self._train_texts)
        prior = expression_prior(
            features[: len(expressions)], features[len(expressions) :], self._share, self.setting["tau"]
        )
        return threshold_of(prior, self.setting["a"], self.setting["threshold"])

    def track(self, data: ReferKitti, video: str, expressions: Sequence[str], workers: int = 2) -> list[Boxes]:
        """For each expression the tracker boxes of a video that it means."""
        found = data.tracks(video, self.config.tracks)
        tracked = Boxes(found.frame_N, found.id_N, found.xyxy_N4)
        c = self.config
        windows = windows_of(tracked, c.window_frames, c.window_stride, c.looks)
        texts = tuple(sorted({normalise(e) for e in expressions}))
        truth = VideoTruth(
            video,
            tracked,
            found.category_N,
            geometry(tracked, data.size(video), c.window_frames // 2),
            windows,
            texts,
            tuple(expressions),
            np.array([texts.index(normalise(e)) for e in expressions]),
            Matches(np.full(len(tracked), -1), np.zeros(len(tracked))),
            np.full(len(tracked), -1),
            tuple(tracked.take(np.zeros(len(tracked), bool)) for _ in expressions),
            np.zeros((len(expressions), len(tracked)), bool),
        )
        predict = WindowScores(self.model, lambda _: truth, geometry=c.geometry)
        parts = cut(scoring_plan(video, tracked, windows, truth.geometry_N8), c.score_batch, 0, "track")
        reader = Reader(c.crop_px, c.frame_px, data.frames)
        scores = [
            predict(a)["score"] for _, a in stream(parts, reader, data.store, executor="threads", workers=workers)
        ]
        score_WE = np.concatenate([*scores, np.zeros(0, np.float32)]).reshape(len(windows), len(texts))
        kept = truth.scores_PN(score_WE) > self.thresholds(expressions)[:, None]
        return [tracked.take(k) for k in kept]

    def _tokens(self, expressions: Sequence[str]) -> torch.Tensor:
        return self.model.clip.tokenize([normalise(e) for e in expressions])

    @torch.no_grad()
    def _features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        _, end_ED = self.model.clip.encode_text(self.model.clip.tokenize(texts), 1)
        return np.asarray(torch.nn.functional.normalize(end_ED.double(), dim=-1).numpy())

    def _images(self, image_NHW3: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(image_NHW3).movedim(-1, 1)


def example_row(data: ReferKitti, video: str, tracks: str, window_frames: int, looks: int) -> dict[str, list[Any]]:
    """One row for `Answers.predict`, from a video's tracks; base64, since it must survive JSON."""
    found = data.tracks(video, tracks)
    boxes = Boxes(found.frame_N, found.id_N, found.xyxy_N4)
    look = windows_of(boxes, window_frames, window_frames, looks).looked_WT[0]
    return {
        "frames": [[base64.b64encode(data.frame_file(video, int(f))).decode() for f in boxes.frame_N[look]]],
        "boxes": [boxes.xyxy_N4[look].tolist()],
        "frame_numbers": [boxes.frame_N[look].tolist()],
        "expression": [data.expressions(video)[0].replace("-", " ")],
    }
