"""Windows of tracks: which stretches are scored, and what scores of windows say of boxes.

iKUN's protocol: windows of 8 frames with stride 4 within each unbroken stretch of a track, the last one moved
back to end on the stretch's last frame; a box scores the mean of the windows that cover it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..metrics.tracking import Boxes

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows over the N boxes of a video's tracks: boxes `start` to `stop` (not included), by id and frame."""

    start_W: Ints
    stop_W: Ints
    looked_WT: Ints  # the boxes whose crops are looked at

    def __len__(self) -> int:
        return len(self.start_W)


def windows_of(tracks: Boxes, frames: int, stride: int, looks: int) -> Windows:
    """The windows of a video's tracks, sorted by id and then frame."""
    starts: list[int] = []
    stops: list[int] = []
    if len(tracks):
        broken = (np.diff(tracks.id_N) != 0) | (np.diff(tracks.frame_N) != 1)
        edges = [0, *(np.flatnonzero(broken) + 1).tolist(), len(tracks)]
        for first, end in pairwise(edges):
            for begin in range(first, end, stride):
                stop = min(end, begin + frames)
                starts.append(max(first, stop - frames))
                stops.append(stop)
                if stop == end:
                    break
    start_W, stop_W = np.array(starts, np.int64), np.array(stops, np.int64)
    offset = [np.linspace(0, n, looks, endpoint=False, dtype=np.int64) for n in (stop_W - start_W).tolist()]
    looked_WT = start_W[:, None] + np.array(offset, np.int64).reshape(-1, looks)
    return Windows(start_W, stop_W, looked_WT)


def box_scores(windows: Windows, score_WE: NDArray[np.floating], boxes: int) -> NDArray[np.float64]:
    """Mean of the windows that cover each box, N x E."""
    total = np.zeros((boxes + 1, score_WE.shape[1]))
    count = np.zeros(boxes + 1)
    np.add.at(total, windows.start_W, score_WE)
    np.add.at(total, windows.stop_W, -score_WE.astype(np.float64))
    np.add.at(count, windows.start_W, 1)
    np.add.at(count, windows.stop_W, -1)
    return total.cumsum(0)[:-1] / np.maximum(count.cumsum()[:-1], 1)[:, None]


def geometry(boxes: Boxes, size: tuple[int, int], reach: int) -> NDArray[np.float32]:
    """Where each box is and how it moves, N x 8, for boxes sorted by id and then frame.

    Centre x, y, width and height relative to the frame, and the change of each over the window of `reach`
    frames to either side (as far as the unbroken track goes), per `2 * reach` frames.
    """
    place_N4 = (boxes.xyxy_N4 / np.array([size[0], size[1]] * 2)) @ _PLACE
    if not len(boxes):
        return np.zeros((0, 8), np.float32)
    new = np.concatenate([[True], (np.diff(boxes.id_N) != 0) | (np.diff(boxes.frame_N) != 1)])
    stretch_N = new.cumsum() - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(boxes)) - 1
    index = np.arange(len(boxes))
    behind, ahead = np.maximum(index - reach, first[stretch_N]), np.minimum(index + reach, last[stretch_N])
    span = np.maximum(boxes.frame_N[ahead] - boxes.frame_N[behind], 1)[:, None]
    change_N4 = (place_N4[ahead] - place_N4[behind]) / span * 2 * reach
    return np.concatenate([place_N4, change_N4], 1).astype(np.float32)


# x1, y1, x2, y2 -> centre x, centre y, width, height
_PLACE = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])
