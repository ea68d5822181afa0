"""A video to score: its tracker output, expressions to score it with, and the ground truth of these.

Shapes: N tracker boxes, W windows, E expressions of a video (normalised), P (video, raw expression) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ...datasets.layouts.refer_kitti import ReferKitti, normalise
from ..metrics.tracking import Boxes, Matches, Sequence2D, match
from .config import Config
from .windows import Windows, box_scores, geometry, windows_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrackedVideo:
    """Tracker output of a video, the windows of it that are scored, and expressions to score them with."""

    video: str
    tracked: Boxes  # sorted by id and then frame
    category_N: NDArray[np.str_]
    geometry_N8: NDArray[np.float32]
    windows: Windows
    texts: tuple[str, ...]  # E normalised expressions
    raw: tuple[str, ...]  # P of them in the data set's words
    text_of_P: NDArray[np.int64]

    @classmethod
    def read(cls, data: ReferKitti, video: str, config: Config, expressions: Sequence[str]) -> TrackedVideo:
        """Reads a video's tracks. Raises DataError when there are none."""
        tracks = data.tracks(video, config.tracks)
        tracked = Boxes(tracks.frame_N, tracks.id_N, tracks.xyxy_N4)
        texts = tuple(sorted({normalise(e) for e in expressions}))
        return cls(
            video,
            tracked,
            tracks.category_N,
            geometry(tracked, data.size(video), config.window_frames // 2),
            windows_of(tracked, config.window_frames, config.window_stride, config.looks),
            texts,
            tuple(expressions),
            np.array([texts.index(normalise(e)) for e in expressions], np.int64),
        )

    def scores_PN(self, score_WE: NDArray[np.floating]) -> Floats:
        """Scores of boxes for each pair, from scores of windows."""
        return box_scores(self.windows, score_WE, len(self.tracked)).T[self.text_of_P]


@dataclass(frozen=True, slots=True)
class VideoTruth(TrackedVideo):
    """A tracked video, and which of its boxes each of its expressions refers to."""

    matches: Matches  # of its boxes with all labelled objects
    object_N: NDArray[np.int64]  # id of the object that a box is matched to, -1 for none
    truths: tuple[Boxes, ...]  # the ground truth of each pair
    fits_PN: NDArray[np.bool_]  # whether a pair's expression refers to the box's object in its frame

    @classmethod
    def load(cls, data: ReferKitti, video: str, config: Config) -> VideoTruth:
        """Reads a video's tracks and ground truth, and matches them once. Raises DataError when one is missing."""
        base = TrackedVideo.read(data, video, config, data.expressions(video))
        tracked, things = base.tracked, data.objects(video)
        everything = Boxes(
            np.concatenate([np.zeros(0, np.int64), *(t.frame_F for t in things)]),
            np.concatenate([np.zeros(0, np.int64), *(np.full(len(t.frame_F), t.id) for t in things)]),
            np.concatenate([np.zeros((0, 4)), *(t.xyxy_F4 for t in things)]),
        )
        matches = match(tracked, everything)
        object_N = np.append(everything.id_N, -1)[matches.row_N]  # row -1 is nobody
        truths = []
        fits = np.zeros((len(base.raw), len(tracked)), bool)
        for pair, expression in enumerate(base.raw):
            truth = data.truth(video, expression)
            truths.append(Boxes(truth.frame_N, truth.id_N, truth.xyxy_N4))
            referred = set(zip(truth.frame_N.tolist(), truth.id_N.tolist(), strict=True))
            fits[pair] = [(f, i) in referred for f, i in zip(tracked.frame_N.tolist(), object_N.tolist(), strict=True)]
        of_base = {field.name: getattr(base, field.name) for field in fields(base)}
        return cls(**of_base, matches=matches, object_N=object_N, truths=tuple(truths), fits_PN=fits)

    def sequences(self, kept_PN: NDArray[np.bool_]) -> list[Sequence2D]:
        """The kept boxes of each pair beside its ground truth, as metrics compare them."""
        return [Sequence2D(self.tracked.take(k), t) for k, t in zip(kept_PN, self.truths, strict=True)]


def window_labels(video: VideoTruth) -> NDArray[np.bool_]:
    """Whether an expression fits most boxes of a window, P x W."""
    total = np.concatenate([np.zeros((len(video.raw), 1)), video.fits_PN.cumsum(1)], 1)
    size = video.windows.stop_W - video.windows.start_W
    return (total[:, video.windows.stop_W] - total[:, video.windows.start_W]) * 2 > size
