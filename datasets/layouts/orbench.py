"""Reads multi-modal person re-identification data: ORBench (arXiv 2506.09385).

    [train/|val/|test/] vis/<id>/*.jpg       RGB
    [train/|val/|test/] nir/<id>/*.jpg       near infrared
    [train/|val/|test/] sk/<id>/*.jpg        sketch
    [train/|val/|test/] cp/<id>/*.jpg        colour pencil
    [train/|val/|test/] text_annos.json      [{"file_path": "vis/<id>/<name>", "caption"}]

An identity is the number that names its folder, in every modality. A caption describes a picture of `vis`.
The file name says the camera where it has `_c03`; captions have none.

**Splits.** Those of the folders; identities of `val/` are divided in halves, `calibration` and `validation`.
Without folders an item's `split` says it (train, val, test), where every item has one. What is still missing
is kept from training: a fifth of the identities for `test`, then a tenth for calibration and validation.
A folder with `gallery/` and no `vis/` is a challenge's, without identities: it is left out, and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..frames.cache import FrameCache, Source
from ..frames.check import image_problems
from ..problems import DataError, Findings, InputError, OfFile, Problem, as_problems, by_folder
from ..storage.leavings import data_names
from ..storage.store import Store
from .shared.annotations import named_path, read_json, shared_captions, short
from .shared.held_out import halves, take

SPLITS = ("train", "calibration", "validation", "test")
MODALITIES = ("vis", "nir", "sk", "cp", "text")
IMAGE_MODALITIES = MODALITIES[:-1]
TEXT_FILE = "text_annos.json"
EVIDENCE = f"folders {', '.join(IMAGE_MODALITIES)}, in train/, val/ and test/ or at once"
_FOLDERS = ("train", "val", "test")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
_TEST_SHARE, _HELD_OUT_SHARE = 0.2, 0.1  # of identities, where the data does not say

_SCHEMA = pa.schema(
    [
        ("modality", pa.string()),
        ("identity", pa.int64()),
        ("camera", pa.int64()),
        ("path", pa.string()),
        ("text", pa.string()),
    ]
)
Sample = dict[str, Any]


def holds(store: Store) -> bool:
    """Whether ORBench data is here: a folder of a modality, or the captions, which stay where they are when packed."""
    names = set(data_names(store))
    wanted = {*IMAGE_MODALITIES, TEXT_FILE}
    return bool(names & wanted) or any(wanted & set(data_names(store, f)) for f in _FOLDERS if f in names)


def frame_files(store: Store, files: Sequence[str]) -> list[str]:
    """The pictures of identities among `files`. Raises DataError where folders or captions can't be used."""
    pictures = set(Orbench(store).paths)
    return [path for path in files if path in pictures]


class Orbench:
    """Reads a data set in this layout: lists its folders and reads its captions.

    Raises DataError with all that is wrong with them.
    """

    def __init__(self, store: Store, frame_cache_mib: int = 256) -> None:
        self.store = store
        self.frames = FrameCache(frame_cache_mib)
        self._skipped: Counter[str] = Counter(empty_captions=0, repeated_captions=0, folders_without_identities=0)
        parts = {folder: _Part(store, self.pictures, folder, self._skipped) for folder in self._folders()}
        problems = [problem for part in parts.values() for problem in part.problems]
        problems += _in_two_folders(parts)
        if problems:
            raise DataError(problems)
        where = _splits(parts)
        self._samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        self._has: dict[int, set[str]] = {identity: set() for identity in where}
        for part in parts.values():
            for sample in part.samples:
                self._samples[where[sample["identity"]]].append(sample)
                self._has[sample["identity"]].add(sample["modality"])
        rule = "identities are needed in train and test, and two in val where it is a folder, else five in all"
        problems = [Problem(store.uri, f"nothing is left for {s}: {rule}") for s in SPLITS if not self._samples[s]]
        if problems:
            raise DataError(problems)

    def _folders(self) -> list[str]:
        """Folders with labelled data; the root itself is the empty string."""
        wanted = {*IMAGE_MODALITIES, TEXT_FILE}
        names = set(data_names(self.store))
        folders = []
        for folder in _FOLDERS:
            inside = {*data_names(self.store, folder), *self.pictures.names(folder)} if folder in names else set()
            if "gallery" in inside and "vis" not in inside:
                self._skipped["folders_without_identities"] += 1
            elif inside & wanted:
                folders.append(folder)
        if folders:
            return folders
        if not names & wanted:
            missing = f"no ORBench data here: folders {', '.join(IMAGE_MODALITIES)} and {TEXT_FILE} are missing"
            raise DataError([Problem(self.store.uri, missing)])
        return [""]

    def samples(self, split: str) -> pa.Table:
        """Rows of a split, by modality, identity and path: modality, identity, camera (-1: unknown), path from
        the data root (empty for text), text (empty for images)."""
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return pa.Table.from_pylist(self._samples[split], _SCHEMA)

    def modalities(self, identity: int) -> NDArray[np.bool_]:
        """Which of MODALITIES an identity has, in their order."""
        if identity not in self._has:
            raise InputError(f"identity must be one of the data's {len(self._has)}, got {identity}")
        return np.array([modality in self._has[identity] for modality in MODALITIES])

    def skipped(self) -> dict[str, int]:
        """Counts of what was left out: empty captions, captions given twice for a picture, unlabelled folders."""
        return dict(self._skipped)

    @property
    def pictures(self) -> Source:
        """The pictures' files, single or packed. Raises DataError where packing was not finished."""
        return self.frames.source(self.store)

    @property
    def paths(self) -> list[str]:
        """Every picture's path."""
        return [sample["path"] for split in SPLITS for sample in self._samples[split] if sample["path"]]


class _Part:
    """One folder of modalities."""

    def __init__(self, store: Store, pictures: Source, folder: str, skipped: Counter[str]) -> None:
        self.root = f"{folder}/" if folder else ""
        self.problems: list[Problem] = []
        self.samples: list[Sample] = []
        self.named_splits: dict[int, set[str]] = {}  # identity -> splits that caption items name
        for modality in IMAGE_MODALITIES:
            self._list(pictures, modality)
        self.paths = {sample["path"] for sample in self.samples}
        try:
            self._read_captions(read_json(store, f"{self.root}{TEXT_FILE}"), skipped)
        except DataError as error:
            self.problems += error.problems

    @property
    def identities(self) -> set[int]:
        """The identities of all samples."""
        return {sample["identity"] for sample in self.samples}

    def _list(self, pictures: Source, modality: str) -> None:
        folder = f"{self.root}{modality}"
        names = [name for name in pictures.walk(folder) if name.lower().endswith(_PICTURES)]
        if not names:
            rule = f"must hold <id>/*.jpg, as {', '.join(IMAGE_MODALITIES)} all do"
            self.problems.append(Problem(folder, f"modality folder is missing or empty: it {rule}"))
        for name in names:
            owner, _, rest = name.partition("/")
            if not (owner.isascii() and owner.isdigit() and rest):
                self.problems.append(Problem(f"{folder}/{name}", "must lie in a folder that is an identity's number"))
            else:
                self._add(modality, int(owner), f"{folder}/{name}", "", _camera_of(name))

    def _add(self, modality: str, identity: int, path: str, text: str, camera: int) -> None:
        values = (modality, identity, camera, path, text)
        self.samples.append(dict(zip(_SCHEMA.names, values, strict=True)))

    def _read_captions(self, items: Any, skipped: Counter[str]) -> None:
        where = f"{self.root}{TEXT_FILE}"
        if not isinstance(items, list) or not items:
            rule = "must be a list of items with file_path and caption"
            self.problems.append(Problem(where, f"{rule}, got {short(items)}"))
            return
        seen: set[tuple[str, str]] = set()
        splits: dict[int, set[str]] = {}
        missing: list[OfFile] = []
        for number, item in enumerate(items):
            at = f"{where}: item {number}"
            path = item.get("file_path") if isinstance(item, dict) else None
            text = item.get("caption") if isinstance(item, dict) else None
            if not isinstance(path, str) or not isinstance(text, str):
                self.problems.append(Problem(at, f"must have file_path and caption, both text, got {short(item)}"))
                continue
            text = " ".join(text.split())
            try:
                path = _picture_of(path)
            except InputError as error:
                self.problems.append(Problem(at, str(error)))
                continue
            if f"{self.root}{path}" not in self.paths:
                lost = Problem(at, f"names {short(path)}, which is not there")
                missing.append(OfFile(lost, f"images are missing that {where} names", name=f"{self.root}{path}"))
            elif not text or (path, text) in seen:
                skipped["repeated_captions" if text else "empty_captions"] += 1
            else:
                seen.add((path, text))
                identity = int(path.split("/")[1])
                self._add("text", identity, "", text, -1)
                splits.setdefault(identity, set()).add(str(item.get("split", "")))
        self.problems += by_folder(missing)
        self._take_splits(splits, where)

    def _take_splits(self, splits: dict[int, set[str]], where: str) -> None:
        """Splits that items name count where all do."""
        named = {split for of_identity in splits.values() for split in of_identity}
        if named <= {""} or self.root:
            return
        for identity, of_identity in sorted(splits.items()):
            if len(of_identity) > 1:
                several = " and in ".join(split or "none" for split in sorted(of_identity))
                self.problems.append(Problem(where, f"identity {identity} is in {several}: splits share no one"))
        for split in sorted(named - set(_FOLDERS)):
            self.problems.append(Problem(where, f"split must be one of {', '.join(_FOLDERS)}, got {split!r}"))
        self.named_splits = splits


def _picture_of(path: str) -> str:
    """The picture that an item names. Raises InputError with the rule."""
    cleaned = named_path(path)
    if not re.fullmatch(r"vis/\d+/.+", cleaned):
        raise InputError(f"file_path must be vis/<id>/<name>, got {short(path)}")
    return cleaned


def _camera_of(name: str) -> int:
    camera = re.search(r"_c(\d{1,3})(?!\d)", name)
    return int(camera[1]) if camera else -1


def _in_two_folders(parts: dict[str, _Part]) -> list[Problem]:
    where: dict[int, str] = {}
    problems = []
    for folder, part in parts.items():
        for identity in sorted(part.identities):
            if where.setdefault(identity, folder) != folder:
                both = f"is in {where[identity]}/ and in {folder}/: splits share no one"
                problems.append(Problem(folder, f"identity {identity} {both}"))
    return problems


def _splits(parts: dict[str, _Part]) -> dict[int, str]:
    """Identity -> split."""
    where = {identity: folder or "train" for folder, part in parts.items() for identity in part.identities}
    for part in parts.values():
        where |= {identity: next(iter(splits)) for identity, splits in part.named_splits.items()}

    def of(split: str) -> set[int]:
        return {identity for identity, named in where.items() if named == split}

    if not of("test"):
        where |= dict.fromkeys(take(of("train"), _TEST_SHARE, least=1), "test")
    held = of("val") or take(of("train"), _HELD_OUT_SHARE, least=2)
    for split, identities in zip(("calibration", "validation"), halves(held), strict=True):
        where |= dict.fromkeys(identities, split)
    return where


def check(store: Store, *, decode: bool = True) -> Findings:
    """Folders, captions, and with `decode` every picture. Raises nothing about the data."""
    try:
        data = Orbench(store)
    except InputError as error:
        return Findings(as_problems(error, store.uri))
    counts = dict.fromkeys(("identities", *MODALITIES), 0)
    for split in SPLITS:
        samples = data.samples(split)
        counts["identities"] += len(samples["identity"].unique())
        for entry in samples["modality"].value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    problems = image_problems(data.pictures, data.paths) if decode else []
    texts = ((s["text"], s["identity"]) for split in SPLITS for s in data.samples(split).to_pylist() if s["text"])
    return Findings(
        problems, counts | {f"skipped_{name}": n for name, n in data.skipped().items()} | shared_captions(texts)
    )
