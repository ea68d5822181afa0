"""Reads pictures of people: one size, one number of channels, and a clear word where a file can't be used."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .lru import Lru
from .problems import DataError, InputError, Problem
from .store import Store

Picture = NDArray[np.uint8]  # height x width x channels
_MODES = {1: "L", 3: "RGB"}


def read_image(store: Store, path: str, height: int, width: int, channels: int = 3) -> Picture:
    """A picture in `height` x `width` pixels with 1 or 3 channels. Raises DataError, with the file, where it is
    missing or won't decode."""
    if channels not in _MODES:
        raise InputError(f"channels must be 1 or 3, got {channels}")
    image = _decode(store, path, _MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels)


def _decode(store: Store, path: str, mode: str) -> Image.Image:
    try:
        content = store.read(path)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError([Problem(f"{store.uri}/{path}", "image is missing")]) from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError([Problem(f"{store.uri}/{path}", f"image won't decode: {error}")]) from None


class ImageCache:
    """`read_image` that keeps the most recently used pictures, up to `mib` mebibytes. Threads may share it.

    Pickles empty: a data worker fills its own.
    """

    def __init__(self, mib: int) -> None:
        self.mib = mib
        self._kept: Lru[Picture] = Lru(mib << 20, lambda picture: picture.nbytes)

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        return ImageCache, (self.mib,)

    def get(self, store: Store, path: str, height: int, width: int, channels: int = 3) -> Picture:
        """As `read_image`. The array is shared: copy it before you change it."""
        key = (store.uri, f"{path} {height}x{width}x{channels}")
        return self._kept.get(key, lambda: read_image(store, path, height, width, channels))


def image_problems(store: Store, paths: Iterable[str]) -> list[Problem]:
    """What is wrong with each file that is missing or won't decode; reads all of them."""

    def look(path: str) -> list[Problem]:
        try:
            _decode(store, path, "RGB")
        except DataError as error:
            return [Problem(path, problem.what) for problem in error.problems]
        return []

    with ThreadPoolExecutor(8) as pool:
        return [problem for found in pool.map(look, paths) for problem in found]
