"""Which pictures of a data set can't be used, in single files or packed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from ..problems import DataError, Problem
from .cache import Source


def image_problems(source: Source, paths: Iterable[str]) -> list[Problem]:
    """A problem for each picture that is missing or won't decode, in the order of `paths`; reads all of them."""

    def problems_of(path: str) -> list[Problem]:
        try:
            content, _ = source.read(path)
        except (FileNotFoundError, IsADirectoryError):
            return [Problem(path, "image is missing")]
        except DataError as error:
            return [Problem(path, problem.what) for problem in error.problems]
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return [Problem(path, f"image won't decode: {error}")]
        return []

    with ThreadPoolExecutor(8) as pool:
        return [problem for problems in pool.map(problems_of, paths) for problem in problems]
