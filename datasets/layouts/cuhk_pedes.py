"""Reads text-to-image person re-identification data: CUHK-PEDES (arXiv 1702.05729), ICFG-PEDES (arXiv 2107.12666),
RSTPReid (arXiv 2109.05534).

    reid_raw.json, caption_all.json     CUHK-PEDES: [{"split", "captions", "file_path", "id"}]
    ICFG-PEDES.json                     ICFG-PEDES: the same; no validation split
    data_captions.json                  RSTPReid: the same with "img_path"
    imgs/<file_path>                    the pictures

The annotation file says which data set it is; it may also lie in `annotations/`. Items without `split` are
CUHK-PEDES's by its published ranges of ids. An item may name its `camera`; else the file name does where it
follows Market-1501 (`_c3`) or, in ICFG-PEDES, MSMT17 (third field).

**Splits.** Identities of the official validation split are divided in two halves: post-hoc settings are chosen
on `calibration`, figures are of `validation`. Without a validation split a tenth of the training identities
is kept for the two. Captions belong to images, not to identities: an image's captions describe that image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from ..frames.cache import FrameCache, Source
from ..frames.check import image_problems
from ..problems import DataError, Findings, InputError, OfFile, Problem, as_problems, by_folder
from ..storage.leavings import data_names
from ..storage.store import Store
from .shared.annotations import named_path, read_json, shared_captions, short
from .shared.captions import split_caption
from .shared.held_out import halves, take

__all__ = ["ANNOTATIONS", "EVIDENCE", "SPLITS", "PersonText", "check", "frame_files", "holds", "split_caption"]

SPLITS = ("train", "calibration", "validation", "test")
ANNOTATIONS = ("reid_raw.json", "caption_all.json", "ICFG-PEDES.json", "ICFG_PEDES.json", "data_captions.json")
EVIDENCE = f"one of the files {', '.join(ANNOTATIONS)}"
IMAGES = "imgs"
_OFFICIAL = ("train", "val", "test")
_CUHK_LAST_ID = {"train": 11003, "val": 12003, "test": 13003}
_HELD_OUT_SHARE = 0.1  # of training identities, where there is no validation split

_IMAGES_SCHEMA = pa.schema([("path", pa.string()), ("identity", pa.int64()), ("camera", pa.int64())])
_CAPTIONS_SCHEMA = pa.schema(
    [("image", pa.int64()), ("text", pa.string()), ("identity_text", pa.string()), ("clothing_text", pa.string())]
)


def holds(store: Store) -> bool:
    """Whether data of one of these data sets is here."""
    return find_annotations(store) is not None


def frame_files(store: Store, files: Sequence[str]) -> list[str]:
    """The pictures among `files` that the annotations name. Raises DataError where these can't be used."""
    pictures = set(PersonText(store).paths)
    return [path for path in files if path in pictures]


def find_annotations(store: Store) -> str | None:
    """Path of the annotation file; None where there is none."""
    for folder in ("", "annotations"):
        names = set(data_names(store, folder))
        for name in ANNOTATIONS:
            if name in names:
                return f"{folder}/{name}" if folder else name
    return None


@dataclass(slots=True)
class _Image:
    path: str
    identity: int
    camera: int
    split: str  # as published
    captions: list[str]


class PersonText:
    """Reads a data set in one of these layouts. Raises DataError with all that is wrong with its annotations."""

    def __init__(self, store: Store, frame_cache_mib: int = 256) -> None:
        self.store = store
        self.frames = FrameCache(frame_cache_mib)
        annotations = find_annotations(store)
        if annotations is None:
            raise DataError([Problem(store.uri, f"no annotation file here: one of {', '.join(ANNOTATIONS)}")])
        self.annotations = annotations
        self._skipped: Counter[str] = Counter(empty_captions=0, repeated_captions=0, repeated_images=0)
        self._skipped["images_without_caption"] = 0
        parsed, problems = _parse(read_json(store, annotations), annotations, self._skipped)
        problems += _in_two_splits(parsed, annotations)
        self._images: dict[str, list[_Image]] = {split: [] for split in SPLITS}
        if not problems:
            where = _divided(parsed)
            for image in parsed:
                self._images[where[image.identity]].append(image)
                self._skipped["images_without_caption"] += not image.captions
            problems += _empty_splits(self._images, annotations)
        if problems:
            raise DataError(problems)
        self._captions: dict[str, pa.Table] = {}

    def images(self, split: str) -> pa.Table:
        """Pictures of a split as the file lists them: path (from the data root), identity, camera (-1: unknown)."""
        rows = [{"path": i.path, "identity": i.identity, "camera": i.camera} for i in self._of(split)]
        return pa.Table.from_pylist(rows, _IMAGES_SCHEMA)

    def captions(self, split: str) -> pa.Table:
        """Captions of a split: image (row of `images(split)`), text, identity_text, clothing_text.

        A part that a caption does not speak of is the empty string.
        """
        if split not in self._captions:
            rows = [
                {"image": row, "text": text, "identity_text": identity, "clothing_text": clothing}
                for row, image in enumerate(self._of(split))
                for text in image.captions
                for identity, clothing in [split_caption(text)]
            ]
            self._captions[split] = pa.Table.from_pylist(rows, _CAPTIONS_SCHEMA)
        return self._captions[split]

    def skipped(self) -> dict[str, int]:
        """Counts of what was left out: empty captions, a caption given twice for an image, an image listed
        twice (its captions are joined); and of images that no caption is left of (they stay in the gallery)."""
        return dict(self._skipped)

    def _of(self, split: str) -> list[_Image]:
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return self._images[split]

    @property
    def pictures(self) -> Source:
        """The pictures' files, single or packed. Raises DataError where packing was not finished."""
        return self.frames.source(self.store)

    @cached_property
    def paths(self) -> list[str]:
        """Every picture's path."""
        return [image.path for split in SPLITS for image in self._images[split]]


def check(store: Store, *, decode: bool = True) -> Findings:
    """Annotations, files, and with `decode` every picture. Raises nothing about the data."""
    try:
        data = PersonText(store)
        files = {f"{IMAGES}/{path}" for path in data.pictures.walk(IMAGES)}
    except InputError as error:
        return Findings(as_problems(error, store.uri))
    missing = [path for path in data.paths if path not in files]
    problems = by_folder(
        OfFile(
            Problem(path, f"image is missing: {data.annotations} names it"),
            f"images are missing that {data.annotations} names",
        )
        for path in missing
    )
    if decode:
        problems += image_problems(data.pictures, [path for path in data.paths if path in files])
    counts = {"images": len(data.paths), "identities": 0, "captions": 0}
    for split in SPLITS:
        counts["identities"] += len(data.images(split)["identity"].unique())
        counts["captions"] += data.captions(split).num_rows
    counts |= {f"skipped_{name}": n for name, n in data.skipped().items()}
    if missing:
        counts["missing_images"] = len(missing)
    of_people = ((c, image.identity) for split in SPLITS for image in data._of(split) for c in image.captions)
    return Findings(problems, counts | shared_captions(of_people))


def _parse(content: Any, where: str, skipped: Counter[str]) -> tuple[list[_Image], list[Problem]]:
    if not isinstance(content, list) or not content:
        rule = "must be a list of items with split, captions, file_path or img_path, and id"
        return [], [Problem(where, f"{rule}, got {short(content)}")]
    images: dict[str, _Image] = {}
    problems: list[Problem] = []
    for number, item in enumerate(content):
        at = f"{where}: item {number}"
        image, wrong = _parse_item(item, at, where)
        problems += [Problem(at, what) for what in wrong]
        if image is None:
            continue
        known = images.setdefault(image.path, image)
        if known is not image:
            skipped["repeated_images"] += 1
            if (known.identity, known.split) != (image.identity, image.split):
                problems.append(
                    Problem(
                        at,
                        f"{image.path} is listed twice: as identity {known.identity} in {known.split} and as "
                        f"identity {image.identity} in {image.split}",
                    )
                )
            known.captions += image.captions
    for image in images.values():
        _clean(image, skipped)
    return list(images.values()), problems


def _clean(image: _Image, skipped: Counter[str]) -> None:
    captions = [" ".join(caption.split()) for caption in image.captions]
    distinct = dict.fromkeys(caption for caption in captions if caption)
    skipped["empty_captions"] += captions.count("")
    skipped["repeated_captions"] += len(captions) - captions.count("") - len(distinct)
    image.captions = list(distinct)


def _parse_item(item: Any, at: str, where: str) -> tuple[_Image | None, list[str]]:
    if not isinstance(item, dict):
        return None, [f"must map split, captions, file_path or img_path, and id, got {short(item)}"]
    wrong: list[str] = []
    path = item.get("file_path", item.get("img_path"))
    if not isinstance(path, str):
        wrong.append(f"file_path or img_path must be text, got {short(path)}")
    else:
        try:
            path = named_path(path)
            path = path if path.startswith(f"{IMAGES}/") else f"{IMAGES}/{path}"
        except InputError as error:
            wrong.append(str(error))
    identity = _whole(item.get("id"))
    if identity is None:
        wrong.append(f"id must be a whole number >= 0, got {short(item.get('id'))}")
    split = item.get("split", _published_split(identity, where))
    if split not in _OFFICIAL:
        wrong.append(f"split must be one of {', '.join(_OFFICIAL)}, got {short(item.get('split'))}")
    given = item.get("captions")
    captions: list[str] = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not isinstance(given, list | str) or not all(isinstance(c, str) for c in captions):
        wrong.append(f"captions must be a list of texts, got {short(given)}")
    camera = item.get("camera")
    if camera is not None and _whole(camera) is None:
        wrong.append(f"camera must be a whole number >= 0, got {short(camera)}")
    if wrong:
        return None, wrong
    known = _whole(camera) if camera is not None else _camera_of(str(path), where)
    return _Image(str(path), int(identity or 0), -1 if known is None else known, str(split), list(captions)), []


def _whole(value: Any) -> int | None:
    """A number that is whole and not negative, also as text; None for all else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _published_split(identity: int | None, where: str) -> str | None:
    if identity is None or not where.endswith(ANNOTATIONS[:2]):
        return None
    return next((split for split, last in _CUHK_LAST_ID.items() if 1 <= identity <= last), None)


def _camera_of(path: str, where: str) -> int | None:
    name = path.rpartition("/")[2]
    camera = re.search(r"_c(\d{1,3})(?!\d)", name)
    if camera is None and where.endswith(ANNOTATIONS[2:4]):
        camera = re.match(r"\d{4}_\d{3}_(\d{2})_", name)
    return int(camera[1]) if camera else None


def _in_two_splits(images: Iterable[_Image], where: str) -> list[Problem]:
    first: dict[int, _Image] = {}
    problems: dict[tuple[int, str], Problem] = {}
    for image in images:
        known = first.setdefault(image.identity, image)
        if known.split != image.split:
            both = f"is in {known.split} ({known.path}) and in {image.split} ({image.path})"
            problems.setdefault(
                (image.identity, image.split), Problem(where, f"identity {image.identity} {both}: splits share no one")
            )
    return list(problems.values())


def _empty_splits(images: Mapping[str, list[_Image]], where: str) -> list[Problem]:
    rule = "train and test are needed, and two identities of val, or three of train"
    return [Problem(where, f"nothing is left for {split}: {rule}") for split in SPLITS if not images[split]]


def _divided(images: Iterable[_Image]) -> dict[int, str]:
    """Identity -> split."""
    published = {image.identity: image.split for image in images}
    held = {i for i, split in published.items() if split == "val"}
    if not held:
        held = take((i for i, split in published.items() if split == "train"), _HELD_OUT_SHARE, least=2)
    where = dict.fromkeys(published, "train") | {i: "test" for i, split in published.items() if split == "test"}
    for split, identities in zip(("calibration", "validation"), halves(held), strict=True):
        where |= dict.fromkeys(identities, split)
    return where
