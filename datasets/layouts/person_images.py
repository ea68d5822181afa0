"""Which pictures of a data set can't be used; models read them through `frames.FrameCache`."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from ..problems import DataError, Problem
from ..storage.store import Store


def _decode(store: Store, path: str) -> None:
    try:
        content = store.read(path)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError([Problem(f"{store.uri}/{path}", "image is missing")]) from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError([Problem(f"{store.uri}/{path}", f"image won't decode: {error}")]) from None


def image_problems(store: Store, paths: Iterable[str]) -> list[Problem]:
    """What is wrong with each file that is missing or won't decode; reads all of them."""

    def look(path: str) -> list[Problem]:
        try:
            _decode(store, path)
        except DataError as error:
            return [Problem(path, problem.what) for problem in error.problems]
        return []

    with ThreadPoolExecutor(8) as pool:
        return [problem for found in pool.map(look, paths) for problem in found]
