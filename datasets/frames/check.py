"""Which pictures of a data set can't be used, in single files or packed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ..problems import InputError, OfFile, Problem, as_problems, by_folder
from .cache import Source
from .decode import PictureError, decode

MANY_MISSING, MANY_BROKEN = "images are missing", "images won't decode"


def image_problems(source: Source, paths: Iterable[str]) -> list[Problem]:
    """The pictures that are missing or won't decode, those of a folder together, in the order of `paths`; reads all of
    them."""

    def problems_of(path: str) -> list[OfFile]:
        try:
            content, _ = source.read(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return [OfFile(Problem(path, "image is missing"), MANY_MISSING)]
        except InputError as error:
            found = as_problems(error, path)
            return [OfFile(Problem(path, p.what), "images can't be read", cause=p.what) for p in found]
        try:
            decode(content, turn=source.turn)
        except PictureError as error:
            return [OfFile(Problem(path, f"image won't decode: {error}"), MANY_BROKEN, str(error))]
        return []

    with ThreadPoolExecutor(8) as pool:
        return by_folder(problem for problems in pool.map(problems_of, paths) for problem in problems)
