"""Refer-KITTI (arXiv 2303.03366) in the layout that iKUN reads (arXiv 2312.16245).

    KITTI/training/image_02/<video>/<frame:06d>.png
    KITTI/labels_with_ids/image_02/<video>/<frame:06d>.txt   class id x1 y1 w h, relative; optional
    expression/<video>/<expression>.json                     {"label": {frame: [ids]}, "sentence", ...}
    Refer-KITTI_labels.json     video -> object -> frame -> {category, expression_raw, expression_new, bbox}
    gt_template/<video>/<expression>/gt.txt                  frame,id,x,y,w,h,1,1,1,offset
    <tracks>/<video>/{car,pedestrian}/predict.txt            frame,id,x,y,w,h,score,-1,-1,-1
    splits.json                 {"train": [videos], ...}; optional, ours

**Frames.** Everywhere in this project frame f is image `<f:06d>.png`, the first is 0, and row f of any
file holds boxes of image f. What differs between tools is which *ids* row f of `gt.txt` lists:
`aligned`, those that the expression file names under key f; `published`, as the authors' template, those
of key f-1, so that frame 0 has no row. The tenth column of our `gt.txt` names it: row minus key, 0 or 1.
A tool that writes image i as frame i+1 (TransRMOT does) must be shifted before it is scored here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..frames.cache import FrameCache
from ..problems import DataError, InputError, Problem
from ..storage.store import Store, safe_path
from .annotations import read_json

Convention = Literal["aligned", "published"]
LABELS_FILE = "Refer-KITTI_labels.json"
SPLITS = ("train", "calibration", "validation", "test")

# The published split, with two training videos held out to choose post-hoc settings and two to report on.
PUBLISHED_TRAIN = ("0001", "0002", "0003", "0004", "0007", "0009", "0014", "0015", "0016", "0018", "0020")
PUBLISHED_SPLITS: dict[str, tuple[str, ...]] = {
    "train": PUBLISHED_TRAIN,
    "calibration": ("0006", "0012"),
    "validation": ("0008", "0010"),
    "test": ("0005", "0011", "0013"),
}
# Expressions that the published evaluation leaves out.
NOT_SCORED = frozenset(f"{who}-back-to-the-camera" for who in ("men", "women", "males", "females")) | frozenset(
    f"{what}-{how}" for what in ("cars", "vehicles") for how in ("which-are-braking", "in-horizon-direction")
)
_SYNONYMS = {
    "cars": "car",
    "vehicles": "car",
    "people": "pedestrian",
    "persons": "pedestrian",
    "males": "men",
    "females": "women",
    "light-colors": "light-color",
}
_CATEGORY = {"Car": "car", "Van": "car", "Truck": "car", "Pedestrian": "pedestrian", "Person": "pedestrian"}


def normalise(expression: str) -> str:
    """The text that the model reads: `left-cars-in-light-color` -> `left car in light-color`."""
    text = expression.replace("-", " ").replace("light color", "light-color")
    return " ".join(_SYNONYMS.get(word, word) for word in text.split())


def category_of(kitti_type: str) -> str:
    """`car`, `pedestrian`, or the KITTI type in lower case."""
    return _CATEGORY.get(kitti_type, kitti_type.lower())


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """An object of a video with what is said of it in each frame; F frames, ascending."""

    video: str
    id: int
    category: str
    frame_F: NDArray[np.int64]
    xyxy_F4: NDArray[np.float64]  # pixels
    expressions: tuple[frozenset[str], ...]  # normalised, one set a frame


@dataclass(frozen=True, slots=True)
class Tracks:
    """Tracker output of a video: N boxes, sorted by id and then frame."""

    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]  # pedestrians follow the largest id of a car
    xyxy_N4: NDArray[np.float64]  # pixels
    score_N: NDArray[np.float64]
    category_N: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.frame_N)


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of a (video, expression) pair: N boxes."""

    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]
    xyxy_N4: NDArray[np.float64]


class ReferKitti:
    """Reads a data set in this layout. Files are read at first need; then kept."""

    def __init__(self, store: Store, frame_cache_mib: int = 1024) -> None:
        self.store = store
        self.frames = FrameCache(frame_cache_mib)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._objects: dict[str, tuple[LabelledObject, ...]] = {}
        self._referred: dict[tuple[str, str], Mapping[int, frozenset[int]]] = {}
        self._raw: dict[str, tuple[str, ...]] = {}

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Videos of each split; the published ones as far as they are there when no splits.json is."""
        if self.store.exists("splits.json"):
            found = read_json(self.store, "splits.json")
            if not isinstance(found, dict) or not set(SPLITS) <= set(found):
                raise DataError([Problem("splits.json", f"must map each of {', '.join(SPLITS)} to a list of videos")])
            return {split: tuple(safe_path(str(video)) for video in found[split]) for split in SPLITS}
        there = set(self.store.names("expression"))
        if not there:
            raise DataError(
                [Problem(self.store.uri, "no Refer-KITTI data here: the folder expression/ is missing or empty")]
            )
        return {split: tuple(v for v in PUBLISHED_SPLITS[split] if v in there) for split in SPLITS}

    def videos(self, split: str) -> tuple[str, ...]:
        """Names of a split's videos."""
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return self.splits[split]

    def frame_path(self, video: str, frame: int) -> str:
        """Where image `frame` of a video lies."""
        return f"{frame_folder(video)}/{frame:06d}.png"

    def frame_file(self, video: str, frame: int) -> bytes:
        """An image file of a frame, in the pixels of its labels."""
        path = self.frame_path(video, frame)
        content, size = self.frames.source(self.store).read(path)
        if size is not None and self.frames.picture(self.store, path).frame.shape[1::-1] != size:
            buffer = io.BytesIO()
            Image.fromarray(self.frames.get(self.store, path)).save(buffer, "PNG")
            content = buffer.getvalue()
        return content

    def n_frames(self, video: str) -> int:
        """How many images a video has."""
        return len(self.frame_names(video))

    def frame_names(self, video: str) -> list[str]:
        """File names of a video's images, sorted; none where there is no such video."""
        return self.frames.source(self.store).names(frame_folder(video))

    def size(self, video: str) -> tuple[int, int]:
        """Width and height in pixels of a video's images, as they were labelled."""
        if video not in self._sizes:
            names = self.frame_names(video)
            if not names:
                raise DataError([Problem(frame_folder(video), "no frames")])
            content, size = self.frames.source(self.store).read(f"{frame_folder(video)}/{names[0]}")
            if size is None:
                with Image.open(io.BytesIO(content)) as image:
                    size = image.size
            self._sizes[video] = size
        return self._sizes[video]

    def expressions(self, video: str, *, scored: bool = True) -> tuple[str, ...]:
        """Raw expressions (file names) of a video; `scored` leaves out those the published evaluation does."""
        if video not in self._raw:
            names = self.store.names(f"expression/{safe_path(video)}")
            self._raw[video] = tuple(n.removesuffix(".json") for n in names if n.endswith(".json"))
        return tuple(e for e in self._raw[video] if not (scored and e in NOT_SCORED))

    def referred(self, video: str, expression: str) -> Mapping[int, frozenset[int]]:
        """Frame -> ids of the objects that a raw expression refers to there."""
        key = (video, expression)
        if key not in self._referred:
            path = f"expression/{video}/{safe_path(expression)}.json"
            self._referred[key] = parse_expression(read_json(self.store, path), path)
        return self._referred[key]

    @cached_property
    def _labels(self) -> dict[str, Any]:
        labels = read_json(self.store, LABELS_FILE)
        if not isinstance(labels, dict):
            raise DataError([Problem(LABELS_FILE, "must map videos to objects")])
        return labels

    @property
    def labelled_videos(self) -> tuple[str, ...]:
        """Videos that Refer-KITTI_labels.json speaks of."""
        return tuple(video for video in self._labels if video != "convention")

    def objects(self, video: str) -> tuple[LabelledObject, ...]:
        """Labelled objects of a video, by id."""
        if video not in self._objects:
            if video not in self._labels:
                raise DataError([Problem(LABELS_FILE, f"video {video} is missing")])
            size = self.size(video)
            found = [parse_object(video, key, value, size) for key, value in self._labels[video].items()]
            self._objects[video] = tuple(sorted(found, key=lambda o: o.id))
        return self._objects[video]

    def truth(self, video: str, expression: str) -> Truth:
        """Ground truth of a raw expression: the template's where there is one, else from labels, aligned."""
        path = f"gt_template/{video}/{safe_path(expression)}/gt.txt"
        if self.store.exists(path):
            row = read_mot(self.store.read(path).decode(), path)
            return Truth(row[:, 0].astype(np.int64), row[:, 1].astype(np.int64), _xyxy(row[:, 2:6]))
        referred = self.referred(video, expression)
        frames, ids, boxes = [], [], []
        for thing in self.objects(video):
            for frame, box in zip(thing.frame_F.tolist(), thing.xyxy_F4, strict=True):
                if thing.id in referred.get(frame, ()):
                    frames.append(frame)
                    ids.append(thing.id)
                    boxes.append(box)
        return Truth(np.array(frames, np.int64), np.array(ids, np.int64), np.array(boxes, np.float64).reshape(-1, 4))

    def tracks(self, video: str, folder: str = "tracks") -> Tracks:
        """Tracker output of a video: cars and pedestrians, ids of the latter after those of the former."""
        parts, offset = [], 0
        for category in ("car", "pedestrian"):
            path = f"{safe_path(folder)}/{safe_path(video)}/{category}/predict.txt"
            if not self.store.exists(path):
                raise DataError([Problem(path, "missing: an empty file says that nothing was tracked")])
            row = read_mot(self.store.read(path).decode(), path)
            row[:, 1] += offset
            offset = int(row[:, 1].max()) if len(row) else offset
            parts.append((row, np.full(len(row), category)))
        row = np.concatenate([p[0] for p in parts])
        category_N = np.concatenate([p[1] for p in parts])
        order = np.lexsort((row[:, 0], row[:, 1]))
        row, category_N = row[order], category_N[order]
        return Tracks(row[:, 0].astype(np.int64), row[:, 1].astype(np.int64), _xyxy(row[:, 2:6]), row[:, 6], category_N)


FRAMES = "KITTI/training/image_02"


def frame_folder(video: str) -> str:
    """Folder of a video's images."""
    return f"{FRAMES}/{safe_path(video)}"


def parse_expression(content: Any, where: str) -> dict[int, frozenset[int]]:
    """Frame -> ids of an expression file."""
    try:
        return {int(frame): frozenset(int(i) for i in ids) for frame, ids in content["label"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError([Problem(where, 'must hold {"label": {frame: [object ids]}}')]) from None


def parse_object(video: str, key: str, content: Any, size: tuple[int, int]) -> LabelledObject:
    """One object of Refer-KITTI_labels.json, boxes in pixels of images of `size`."""
    where = f"{LABELS_FILE}: {video}/{key}"
    try:
        frames = sorted((int(frame), value) for frame, value in content.items())
        xywh = np.array([value["bbox"] for _, value in frames], np.float64).reshape(-1, 4)
        category = next((c for _, v in frames for c in _as_list(v["category"])), "")
        expressions = tuple(frozenset(_texts(value)) for _, value in frames)
        return LabelledObject(
            video,
            int(key),
            category,
            np.array([f for f, _ in frames], np.int64),
            _xyxy(xywh) * np.array(size * 2),
            expressions,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError([Problem(where, f"must map frames to category, expressions and bbox: {error!r}")]) from None


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _texts(value: Mapping[str, Any]) -> list[str]:
    for key in ("expression_new", "expression_raw", "expression"):
        if key in value:
            return [normalise(e) for e in value[key]]
    raise KeyError("expression_new")


def read_mot(text: str, where: str) -> NDArray[np.float64]:
    """Rows frame,id,x,y,w,h,score of a comma-separated MOT file, N x 7; DataError names every bad line."""
    rows: list[list[float]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(v) for v in line.strip().rstrip(",").split(",")]
            if len(row) < 6 or not np.isfinite(row[:6]).all():
                raise ValueError(f"a row must start with six numbers frame,id,x,y,w,h, got {line.strip()!r}")
            rows.append([*row[:6], row[6] if len(row) > 6 else 1.0])
        except ValueError as error:
            problems.append(Problem(f"{where}:{number}", str(error)))
    if problems:
        raise DataError(problems)
    return np.array(rows, np.float64).reshape(-1, 7)


def _xyxy(xywh_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], axis=1)
