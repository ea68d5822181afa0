"""Decoded frames: read once, kept while there is room, cut into squares."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .problems import DataError, Problem
from .store import Store

Frame = NDArray[np.uint8]  # H x W x 3, RGB
Numbers = Sequence[float] | NDArray[np.float64]


class FrameCache:
    """The most recently used decoded frames, up to `mib` mebibytes. Threads may share it.

    Pickles empty: a data worker fills its own.
    """

    def __init__(self, mib: int) -> None:
        self.mib = mib
        self._frames: OrderedDict[tuple[str, str], Frame] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[FrameCache], tuple[int]]:
        return FrameCache, (self.mib,)

    def get(self, store: Store, path: str) -> Frame:
        """A frame as H x W x 3 bytes. Raises DataError when it is missing or won't decode."""
        key = (store.uri, path)
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key]
        frame = decode(store, path)
        with self._lock:
            if key not in self._frames:
                self._frames[key] = frame
                self._bytes += frame.nbytes
                while self._bytes > self.mib << 20 and len(self._frames) > 1:
                    self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return frame


def decode(store: Store, path: str) -> Frame:
    """Reads and decodes an image as RGB. Raises DataError when it is missing or truncated."""
    try:
        content = store.read(path)
    except FileNotFoundError:
        raise DataError([Problem(f"{store.uri}/{path}", "frame is missing")]) from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError([Problem(f"{store.uri}/{path}", f"frame won't decode: {error}")]) from None


WHOLE = (0.0, 0.0, 1.0, 1.0)


def square(frame: Frame, xyxy: Numbers, side: int, window: Numbers = WHOLE) -> Frame:
    """A box of a frame, padded with black to a square, cut to a window of it, resized to side x side x 3.

    `window` is (left, top, width, height) in shares of the padded square. The box is truncated to whole
    pixels and to the frame, as iKUN does; an empty one gives black.
    """
    height, width = frame.shape[:2]
    x1, y1 = max(0, int(xyxy[0])), max(0, int(xyxy[1]))
    x2, y2 = min(width, int(xyxy[2])), min(height, int(xyxy[3]))
    if x2 <= x1 or y2 <= y1:
        return np.zeros((side, side, 3), np.uint8)
    long = max(x2 - x1, y2 - y1)
    padded = Image.new("RGB", (long, long))
    padded.paste(Image.fromarray(frame[y1:y2, x1:x2]), ((long - (x2 - x1)) // 2, (long - (y2 - y1)) // 2))
    left, top, wide, high = (v * long for v in window)
    part = (left, top, min(float(long), left + wide), min(float(long), top + high))
    return np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR, box=part))
