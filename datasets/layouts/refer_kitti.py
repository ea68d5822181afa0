"""Reads Refer-KITTI (arXiv 2303.03366) in the layout that iKUN reads (arXiv 2312.16245, github.com/dyhBUPT/iKUN).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..frames.cache import FrameCache, read_frame
from ..frames.decode import PictureError, measure
from ..problems import DataError, InputError, Problem, first
from ..storage.leavings import data_names
from ..storage.store import Store, safe_path
from ..storage.text import read_text
from .refer_kitti_parse import (
    LABELS_FILE,
    LabelledObject,
    category_of,
    normalise,
    parse_expression,
    parse_object,
    read_mot,
    to_xyxy,
)
from .shared.annotations import read_json

__all__ = [
    "EVIDENCE",
    "FRAMES",
    "HAS_BOXES",
    "LABELS_FILE",
    "NOT_SCORED",
    "PUBLISHED_SPLITS",
    "SPLITS",
    "GroundTruth",
    "LabelledObject",
    "ReferKitti",
    "Tracks",
    "category_of",
    "frame_files",
    "frame_folder",
    "holds",
    "normalise",
    "parse_expression",
]

HAS_BOXES = True  # frames must be stored upright
EVIDENCE = f"a folder expression/ or KITTI/, or the file {LABELS_FILE}"
FRAMES = "KITTI/training/image_02"
SPLITS = ("train", "calibration", "validation", "test")
Convention = Literal["aligned", "published"]

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


def holds(store: Store) -> bool:
    """Whether Refer-KITTI data is here, complete or not."""
    return bool({"expression", "KITTI", LABELS_FILE} & set(store.names()))


def frame_files(store: Store, files: Sequence[str]) -> list[str]:
    """The images of all videos among `files`. Raises DataError where no split has a video with images."""
    data = ReferKitti(store)
    if not any(data.frame_names(video) for videos in data.splits.values() for video in videos):
        raise DataError([Problem(f"{store.uri}/{FRAMES}", "no frames of any video that splits name")])
    return [path for path in files if path.startswith(f"{FRAMES}/")]


def frame_folder(video: str) -> str:
    """Folder of a video's images."""
    return f"{FRAMES}/{safe_path(video)}"


@dataclass(frozen=True, slots=True)
class Tracks:
    """Tracker output of a video: N boxes, sorted by id and then frame."""

    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]  # cars as in their file; pedestrians behind the largest of them
    xyxy_N4: NDArray[np.float64]  # pixels
    score_N: NDArray[np.float64]
    category_N: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.frame_N)


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Ground truth of a (video, expression) pair: N boxes."""

    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]
    xyxy_N4: NDArray[np.float64]


class ReferKitti:
    """Reads a data set in this layout. Files are read at first need; then kept."""

    def __init__(self, store: Store, frame_cache_mib: int = 1024) -> None:
        self.store = store
        self.frames = FrameCache(frame_cache_mib, turn=False)
        self._left_out: dict[str, Problem] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._objects: dict[str, tuple[LabelledObject, ...]] = {}
        self._referred: dict[tuple[str, str], Mapping[int, frozenset[int]]] = {}
        self._raw: dict[str, tuple[str, ...]] = {}

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Videos of each split; those of splits.json, else the published ones that are present. Raises DataError."""
        if self.store.exists("splits.json"):
            content = read_json(self.store, "splits.json")
            if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in SPLITS):
                raise DataError([Problem("splits.json", f"must map each of {', '.join(SPLITS)} to a list of videos")])
            return {split: tuple(safe_path(str(video)) for video in content[split]) for split in SPLITS}
        present = set(data_names(self.store, "expression"))
        if not present:
            raise DataError(
                [Problem(self.store.uri, "no Refer-KITTI data here: the folder expression/ is missing or empty")]
            )
        return {split: tuple(v for v in PUBLISHED_SPLITS[split] if v in present) for split in SPLITS}

    def videos(self, split: str) -> tuple[str, ...]:
        """Names of a split's videos."""
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return self.splits[split]

    def frame_path(self, video: str, frame: int) -> str:
        """Path of image `frame` of a video below the data root."""
        return f"{frame_folder(video)}/{frame:06d}.png"

    def frame_file(self, video: str, frame: int) -> bytes:
        """An image file of a frame, in the pixels of its labels."""
        path = self.frame_path(video, frame)
        content, size = read_frame(self.frames.source(self.store), path, f"{self.store.uri}/{path}")
        if size is not None and self.frames.picture(self.store, path).frame.shape[1::-1] != size:
            buffer = io.BytesIO()
            Image.fromarray(self.frames.get(self.store, path)).save(buffer, "PNG")
            content = buffer.getvalue()
        return content

    def n_frames(self, video: str) -> int:
        """Number of a video's images."""
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
            path = f"{frame_folder(video)}/{names[0]}"
            content, size = read_frame(self.frames.source(self.store), path, path)
            try:
                self._sizes[video] = size or measure(content, turn=False)
            except PictureError as error:
                raise DataError([Problem(path, f"frame won't decode: {error}")]) from None
        return self._sizes[video]

    def expressions(self, video: str, *, scored: bool = True) -> tuple[str, ...]:
        """Raw expressions (file names) of a video; `scored` leaves out those the published evaluation does."""
        if video not in self._raw:
            names = data_names(self.store, f"expression/{safe_path(video)}")
            self._raw[video] = tuple(n.removesuffix(".json") for n in names if n.endswith(".json"))
        return tuple(e for e in self._raw[video] if not (scored and e in NOT_SCORED))

    def referred(self, video: str, expression: str) -> Mapping[int, frozenset[int]]:
        """Frame -> ids of the objects that a raw expression refers to there."""
        key = (video, expression)
        if key not in self._referred:
            path = f"expression/{video}/{safe_path(expression)}.json"
            self._referred[key] = parse_expression(read_json(self.store, path, distinct=True), path)
        return self._referred[key]

    @cached_property
    def _labels(self) -> dict[str, Any]:
        labels = read_json(self.store, LABELS_FILE, distinct=True)
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
            if not isinstance(self._labels[video], dict):
                raise DataError([Problem(f"{LABELS_FILE}: {video}", "must map objects to frames")])
            size, left_out = self.size(video), list[Problem]()
            objects = [parse_object(video, key, value, size, left_out) for key, value in self._labels[video].items()]
            distinct = {thing.id: thing for thing in objects}
            if len(distinct) < len(objects):
                again = first(sorted({o.id for o in objects if distinct[o.id] is not o}))
                raise DataError([Problem(f"{LABELS_FILE}: {video}", f"duplicate ids: object {again} stands twice")])
            self._leave_out(left_out)
            self._objects[video] = tuple(distinct[number] for number in sorted(distinct) if number >= 0)
        return self._objects[video]

    @property
    def left_out(self) -> list[Problem]:
        """What was left out of the files read so far: frames without a box, boxes without an identity."""
        return list(self._left_out.values())

    def _leave_out(self, problems: Sequence[Problem]) -> None:
        self._left_out |= {problem.where: problem for problem in problems}

    def _read_mot(self, path: str, kind: str) -> NDArray[np.float64]:
        left_out: list[Problem] = []
        rows = read_mot(read_text(self.store, path), path, kind, left_out)
        self._leave_out(left_out)
        return rows

    def truth(self, video: str, expression: str) -> GroundTruth:
        """Ground truth of a raw expression: the template's where there is one, else from labels, aligned."""
        path = f"gt_template/{video}/{safe_path(expression)}/gt.txt"
        if self.store.exists(path):
            row = self._read_mot(path, "object")
            return GroundTruth(row[:, 0].astype(np.int64), row[:, 1].astype(np.int64), to_xyxy(row[:, 2:6]))
        referred = self.referred(video, expression)
        frames, ids, boxes = [], [], []
        for thing in self.objects(video):
            for frame, box in zip(thing.frame_F.tolist(), thing.xyxy_F4, strict=True):
                if thing.id in referred.get(frame, ()):
                    frames.append(frame)
                    ids.append(thing.id)
                    boxes.append(box)
        return GroundTruth(
            np.array(frames, np.int64), np.array(ids, np.int64), np.array(boxes, np.float64).reshape(-1, 4)
        )

    def tracks(self, video: str, folder: str = "tracks") -> Tracks:
        """Tracker output of a video: cars and pedestrians, ids of the latter after those of the former, whatever the
        first of either is. Boxes without an identity (-1) are left out. Raises DataError, also for an id that stands
        in one frame twice."""
        parts: list[tuple[NDArray[np.float64], NDArray[np.str_]]] = []
        last = 0  # the largest id of a car
        for category in ("car", "pedestrian"):
            path = f"{safe_path(folder)}/{safe_path(video)}/{category}/predict.txt"
            if not self.store.exists(path):
                raise DataError([Problem(path, "missing: an empty file says that nothing was tracked")])
            row = self._read_mot(path, "track")
            if category == "pedestrian" and parts and len(parts[0][0]) and len(row):
                # those that count from 1, as most do, follow the cars at once; from 0 they need one place more
                row[:, 1] += last + (1 if row[:, 1].min() < 1 else 0)
            elif len(row):
                last = int(row[:, 1].max())
            parts.append((row, np.full(len(row), category)))
        row = np.concatenate([p[0] for p in parts])
        category_N = np.concatenate([p[1] for p in parts])
        order = np.lexsort((row[:, 0], row[:, 1]))
        row, category_N = row[order], category_N[order]
        return Tracks(
            row[:, 0].astype(np.int64), row[:, 1].astype(np.int64), to_xyxy(row[:, 2:6]), row[:, 6], category_N
        )
