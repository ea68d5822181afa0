"""Frames, in single files or packed: read once, decoded, kept while there is room, cut into squares.

A packed frame may be smaller than the one that was labelled. Boxes, tracks and labels are in pixels of the
latter always; `Picture.size` says how large it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..problems import DataError, Problem
from ..storage.leavings import data_names, data_walk
from ..storage.lru import Lru
from ..storage.store import Store
from .decode import Frame, PictureError, Size, decode
from .packed import INFO_FILE, UNFINISHED_FILE, PackedFrames

__all__ = ["WHOLE", "Frame", "FrameCache", "Numbers", "Picture", "Source", "open_frames", "read_frame", "square"]
Numbers = Sequence[float] | NDArray[np.float64]


class Source(Protocol):
    """The frames of a data set, in single files or packed."""

    turn: bool  # of `decode`: True for pictures of people, False for frames with boxes

    def names(self, folder: str) -> list[str]:
        """Names of the frames, and of folders, directly below a folder, sorted."""

    def walk(self, folder: str) -> Iterator[str]:
        """Path below `folder` of every frame in it, sorted."""

    def read(self, path: str) -> tuple[bytes, Size | None]:
        """An image file and the size that labels are written for; None: the image's own. Raises FileNotFoundError."""


class LooseFrames:
    """Frames in single files: every file is taken for one, but for leavings of operating systems."""

    def __init__(self, store: Store, turn: bool = True) -> None:
        self.store, self.turn = store, turn

    def names(self, folder: str) -> list[str]:
        """Names of files and folders directly below a folder, sorted."""
        return data_names(self.store, folder)

    def walk(self, folder: str) -> Iterator[str]:
        """Path below `folder` of every file in it, sorted."""
        return (path for path, _ in data_walk(self.store, folder))

    def read(self, path: str) -> tuple[bytes, None]:
        """An image file. Raises FileNotFoundError."""
        return self.store.read(path), None


def open_frames(store: Store, turn: bool = True) -> Source:
    """The frames of a data set, packed or not; `turn` is that of `decode`. Raises DataError when packing it was not
    finished."""
    there = store.names()
    if INFO_FILE in there:
        return PackedFrames(store, turn=turn)
    if UNFINISHED_FILE in there:
        raise DataError([Problem(store.uri, "packing was not finished: the same `data pack` continues it")])
    return LooseFrames(store, turn)


class Picture(NamedTuple):
    """A frame as it is kept, and the width and height in pixels that its labels are written for."""

    frame: Frame
    size: Size


class FrameCache:
    """The most recently used decoded frames, up to `mib` mebibytes. Threads may share it.

    `turn` is that of `decode`: True for pictures of people, False for frames with boxes. Pickles empty: a data worker
    fills its own.
    """

    def __init__(self, mib: int, *, turn: bool = True) -> None:
        self.mib, self.turn = mib, turn
        self._kept: Lru[Picture] = Lru(mib << 20, lambda picture: picture.frame.nbytes)
        self._sources: dict[str, Source] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., FrameCache], tuple[int, bool]]:
        return _new_cache, (self.mib, self.turn)

    def source(self, store: Store) -> Source:
        """The source of a data set's frames, opened once. Raises DataError when packing it was not finished."""
        with self._lock:
            if store.uri not in self._sources:
                self._sources[store.uri] = open_frames(store, self.turn)
            return self._sources[store.uri]

    def picture(self, store: Store, path: str) -> Picture:
        """A frame as it is kept. Raises DataError when it is missing or won't decode."""
        source = self.source(store)
        return self._kept.get((store.uri, path), lambda: _decode(source, path, f"{store.uri}/{path}"))

    def get(self, store: Store, path: str) -> Frame:
        """A frame in the pixels of its labels, H x W x 3 bytes. Raises DataError when it is missing or won't decode."""
        frame, size = self.picture(store, path)
        return frame if frame.shape[1::-1] == size else np.asarray(_patch(frame, (0, 0, *size), size))


def _new_cache(mib: int, turn: bool) -> FrameCache:
    return FrameCache(mib, turn=turn)


def read_frame(source: Source, path: str, where: str) -> tuple[bytes, Size | None]:
    """`source.read`. Raises DataError with the place where there is no such file."""
    try:
        return source.read(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError([Problem(where, "frame is missing")]) from None


def _decode(source: Source, path: str, where: str) -> Picture:
    """Reads and decodes a frame. Raises DataError when it is missing or won't decode."""
    content, size = read_frame(source, path, where)
    try:
        image, swapped = decode(content, turn=source.turn)
    except PictureError as error:
        raise DataError([Problem(where, f"frame won't decode: {error}")]) from None
    if size is not None and swapped:  # what is packed unchanged is recorded as the file is, not as it is shown
        size = (size[1], size[0])
    return Picture(np.asarray(image), size or image.size)


WHOLE = (0.0, 0.0, 1.0, 1.0)


def square(frame: Frame, xyxy: Numbers, side: int, window: Numbers = WHOLE, size: Size | None = None) -> Frame:
    """A box of a frame, padded with black to a square, cut to a window of it, resized to side x side x 3.

    `window` is (left, top, width, height) in shares of the padded square. The box is truncated to whole
    pixels and to the frame, as iKUN does; an empty one gives black. `size` is that of the frame the box was
    drawn in, where `frame` is a smaller copy of it: geometry is the same, only detail is lost.
    """
    width, height = size = size or (frame.shape[1], frame.shape[0])
    x1, y1 = max(0, int(xyxy[0])), max(0, int(xyxy[1]))
    x2, y2 = min(width, int(xyxy[2])), min(height, int(xyxy[3]))
    if x2 <= x1 or y2 <= y1:
        return np.zeros((side, side, 3), np.uint8)
    whole = (x1, y1, x2, y2) == (0, 0, width, height)
    patch = Image.fromarray(frame) if whole else _patch(frame, (x1, y1, x2, y2), size)
    long = max(patch.size)
    padded = Image.new("RGB", (long, long))
    padded.paste(patch, ((long - patch.width) // 2, (long - patch.height) // 2))
    left, top, wide, high = (v * long for v in window)
    part = (left, top, min(float(long), left + wide), min(float(long), top + high))
    return np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR, box=part))


def _patch(frame: Frame, xyxy: tuple[int, int, int, int], size: Size) -> Image.Image:
    """Whole pixels of the frame of `size`, taken from a copy of it, stretched back where that is smaller."""
    x1, y1, x2, y2 = xyxy
    if frame.shape[1::-1] == size:
        return Image.fromarray(frame[y1:y2, x1:x2])
    across, down = frame.shape[1] / size[0], frame.shape[0] / size[1]
    region = (x1 * across, y1 * down, x2 * across, y2 * down)
    return Image.fromarray(frame).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=region)
