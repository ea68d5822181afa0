"""Follows expressions through a video, and writes what was followed as an MP4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables import discovery
from ..trainables.contract import Tracked
from ..trainables.training.package import Package
from .evaluate import with_tracks


def track(
    package: Package,
    data: str,
    video: str,
    expressions: Sequence[str],
    out: Path,
    fps: int = 10,
    tracks: str | None = None,
) -> dict[str, Any]:
    """Follows expressions through a video of a data set and draws them into an MP4; figures of each expression.
    `tracks` is another folder of tracker output than the one that the model was trained with.

    Raises InputError for a model that can't track, a video or tracks that there are not, an empty expression.
    """
    package = with_tracks(package, tracks)
    follow = discovery.capability(package.trainable, "track", "track")
    texts = [expression.strip() for expression in expressions]
    if not all(texts):
        raise InputError("expression must not be empty")
    source = discovery.load(package.trainable).open_data(Store(data) if data != "none" else None)
    tracked: Tracked = follow(package, source, video, texts)
    write_video(tracked.draw(), out, fps)
    return {"video": video, "frames": tracked.frames, "out": str(out), "found": [dict(row) for row in tracked.rows]}


def write_video(frames: Iterator[NDArray[np.uint8]], out: Path, fps: int) -> None:
    """An H.264 MP4 that browsers play, from H x W x 3 frames of one size; odd sizes lose a row or column."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(out), "w") as container:
        video = None
        for frame in frames:
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            if video is None:
                video = container.add_stream("libx264", rate=Fraction(fps))
                video.width, video.height, video.pix_fmt = width, height, "yuv420p"
                video.options = {"crf": "20", "preset": "veryfast", "movflags": "+faststart"}
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(video.encode(picture))
        if video is not None:
            container.mux(video.encode())
