"""Searches a gallery of pictures with a model that ranks: the best answers, and a picture of the query and of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..datasets.frames.cache import open_frames, read_frame
from ..datasets.frames.decode import PictureError, decode, decode_given
from ..datasets.problems import InputError
from ..datasets.storage.leavings import data_walk
from ..datasets.storage.store import Store, read_file
from ..trainables import discovery
from ..trainables.contract import RankingModel
from ..trainables.training.package import Package

FILES_AT_ONCE = 32  # of a gallery, that are held in memory
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
HEIGHT_PX, MARGIN_PX, FRAME_PX, LINE_PX, LINE_CHARACTERS = 256, 12, 6, 18, 26
RIGHT, WRONG, UNKNOWN = (46, 160, 67), (218, 54, 51), (150, 150, 150)
PAGE, INK = (250, 250, 250), (30, 30, 30)


@dataclass(frozen=True, slots=True)
class Gallery:
    """Image files and, where they are known, whom they show."""

    store: Store
    paths: Sequence[str]
    identities: Sequence[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Who is searched for, in words, in pictures by the model's names of modalities, or in both. `identity` is known to
    the user, not to the model."""

    text: str | None = None
    images: Mapping[str, bytes]
    identity: int | None = None


def open_gallery(package: Package, uri: str, split: str) -> Gallery:
    """The gallery of a data set's split, or every image file of a folder. Raises InputError when there is none, and for
    a model that can't rank."""
    gallery_of, store = discovery.capability(package.trainable, "gallery", "query"), Store(uri)
    table = gallery_of(store, split)
    if table is not None:
        gallery = Gallery(store, table["path"].to_pylist(), table["identity"].to_pylist())
    else:
        paths = sorted(path for path, _ in data_walk(store) if PurePosixPath(path).suffix.lower() in IMAGES)
        gallery = Gallery(store, paths, [None] * len(paths))
    if not gallery.paths:
        raise InputError(f"no image in the gallery at {uri}: {', '.join(IMAGES)}")
    return gallery


def named_images(ranker: RankingModel, given: Sequence[str]) -> dict[str, bytes]:
    """`MODALITY=FILE` to content; the modality may be left out where a model has only one. Raises InputError."""
    known = [name for name in ranker.columns if name != "text"]
    content = {}
    for word in given:
        name, equals, uri = word.partition("=")
        if not equals:
            name, uri = (known[0] if len(known) == 1 else ""), word
        if name not in known:
            raise InputError(
                f"image must be one of {', '.join(f'{k}=FILE' for k in known)}, got {word!r}"
                if known
                else "this model takes no image as a query, only text"
            )
        if name in content:
            raise InputError(f"{name} is given twice")
        content[name] = _query_file(uri)
    return content


def _query_file(uri: str) -> bytes:
    """A picture that a query names. Raises InputError where it is missing or won't decode."""
    try:
        content = read_file(uri)
        decode(content)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"image must be a file that can be read, got {uri}: {error.strerror or 'missing'}") from None
    except PictureError as error:
        raise InputError(f"image {uri} won't decode: {error}") from None
    return content


def query(
    package: Package,
    gallery: Gallery,
    text: str | None,
    images: Sequence[str],
    identity: int | None,
    top: int,
    out: Path,
) -> dict[str, Any]:
    """Ranks a gallery and draws the query and its best answers into a PNG; the answers. Raises InputError."""
    if top < 1:
        raise InputError(f"top must be >= 1, got {top}")
    ranker: RankingModel = discovery.load(package.trainable).serve(package)
    searched = Query(text=text, images=named_images(ranker, images), identity=identity)
    if text is not None and not text.strip():
        raise InputError("text must not be empty")
    score_G = ranker.rank({**searched.images, **({"text": text} if text else {})}, _encoded(ranker, gallery))
    best = np.argsort(-score_G, kind="stable")[:top]
    page = draw(gallery, searched, best, score_G)
    try:
        page.save(out)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError) as error:
        raise InputError(f"out must be a picture that can be written, as answer.png, got {out}: {error}") from None
    answers = [
        {"rank": rank, "path": gallery.paths[g], "score": float(score_G[g]), "identity": gallery.identities[g]}
        for rank, g in enumerate(best, 1)
    ]
    return {"gallery": len(gallery.paths), "out": str(out), "found": answers}


def _encoded(ranker: RankingModel, gallery: Gallery) -> dict[str, NDArray[Any]]:
    """Encodes in parts: a gallery's files need not fit into memory."""
    pictures, parts = open_frames(gallery.store), []
    for start in range(0, len(gallery.paths), FILES_AT_ONCE):
        paths = gallery.paths[start : start + FILES_AT_ONCE]
        files = [read_frame(pictures, path, f"{gallery.store.uri}/{path}")[0] for path in paths]
        try:
            parts.append(ranker.gallery(files))
        except InputError:
            for path, file in zip(paths, files, strict=True):
                _opened(file, f"{gallery.store.uri}/{path}")  # names the one that won't decode
            raise
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


# -- the picture -------------------------------------------------------------------------------------------


def draw(gallery: Gallery, query: Query, best: NDArray[np.int64], score_G: NDArray[np.float32]) -> Image.Image:
    """The query, then the best answers from left to right, each with rank and score. A frame is green or red where
    both identities are known, else grey."""
    tiles = [_tile(_opened(content, name), name, UNKNOWN) for name, content in query.images.items()]
    if query.text:
        tiles.insert(0, _words(query.text))
    pictures = open_frames(gallery.store)
    for rank, g in enumerate(best, 1):
        known = gallery.identities[g]
        colour = UNKNOWN if known is None or query.identity is None else RIGHT if known == query.identity else WRONG
        caption = f"{rank}: {score_G[g]:.3f}" + ("" if known is None else f"  id {known}")
        path = gallery.paths[g]
        tiles.append(_tile(_opened(read_frame(pictures, path, path)[0], path), caption, colour))
    width = sum(tile.width + MARGIN_PX for tile in tiles) + MARGIN_PX
    page = Image.new("RGB", (width, max(tile.height for tile in tiles) + 2 * MARGIN_PX), PAGE)
    left = MARGIN_PX
    for tile in tiles:
        page.paste(tile, (left, MARGIN_PX))
        left += tile.width + MARGIN_PX
    return page


def _opened(content: bytes, where: str) -> Image.Image:
    return Image.fromarray(decode_given(content, where))


def _tile(image: Image.Image, caption: str, colour: tuple[int, int, int]) -> Image.Image:
    font = ImageFont.load_default(13)
    width = max(round(image.width * HEIGHT_PX / image.height), 1)
    whole = max(width + 2 * FRAME_PX, int(font.getlength(caption)) + 1)
    tile = Image.new("RGB", (whole, HEIGHT_PX + 2 * FRAME_PX + LINE_PX), PAGE)
    paper = ImageDraw.Draw(tile)
    paper.rectangle([0, 0, width + 2 * FRAME_PX - 1, HEIGHT_PX + 2 * FRAME_PX - 1], fill=colour)
    tile.paste(image.resize((width, HEIGHT_PX), Image.Resampling.BICUBIC), (FRAME_PX, FRAME_PX))
    paper.text((0, HEIGHT_PX + 2 * FRAME_PX + 1), caption, fill=INK, font=font)
    return tile


def _words(text: str) -> Image.Image:
    font = ImageFont.load_default(14)
    lines = textwrap.wrap(text, LINE_CHARACTERS)[: HEIGHT_PX // LINE_PX]
    tile = Image.new("RGB", (max(int(font.getlength(line)) for line in lines) + 8, HEIGHT_PX + 2 * FRAME_PX), PAGE)
    paper = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        paper.text((0, number * LINE_PX), line, fill=INK, font=font)
    return tile
