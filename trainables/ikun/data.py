"""The data of iKUN: plans of training windows and of frames to score, and how their rows become arrays.

Training follows the published protocol: an epoch is `windows_per_track` windows of 8 labelled frames of each
track (they need not follow each other in time), one frame drawn in each part of the window, and expressions
of the video with the 0/1 label of one of the frames drawn.

Shapes: B windows, T looks at a window, K expressions of it; F frames, N crops; pixels as H x W x 3 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray

from ...datasets.frames.cache import WHOLE, FrameCache, Numbers, Picture, square
from ...datasets.layouts.refer_kitti import LABELS_FILE, ReferKitti, frame_folder, normalise
from ...datasets.layouts.refer_kitti_check import check
from ...datasets.problems import DataError, InputError, Problem
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..metrics.tracking import Boxes
from .config import Config
from .windows import Windows, geometry


def open_data(store: Store | None) -> ReferKitti:
    """The data set at `store`, in Refer-KITTI's layout. Raises InputError for none."""
    if store is None:
        raise InputError("ikun needs data, got none")
    return ReferKitti(store)


def check_data(store: Store, tracks: str = "tracks") -> None:
    """Raises DataError with all that is wrong and can be seen without decoding frames. `tracks` is the Config's."""
    check(store, decode=False, tracks=tracks).refuse()


def videos_of(data: ReferKitti, split: str) -> tuple[str, ...]:
    """Names of a split's videos. Raises InputError with the choices for another split, DataError where it has none."""
    videos = data.videos(split)
    if not videos:
        raise DataError([Problem(data.store.uri, f"split {split} has no video")])
    return videos


@dataclass(frozen=True, slots=True)
class LabelledTrack:
    """A track to train on: F labelled frames with at least one expression each."""

    video: str
    boxes: Boxes
    geometry_F8: NDArray[np.float32]
    fits: tuple[NDArray[np.int64], ...]  # expressions that hold, one array a frame
    candidates: NDArray[np.int64]  # all of the video


class TrainingSet:
    """The labelled tracks of some videos and the expressions they are paired with."""

    def __init__(self, data: ReferKitti, videos: Sequence[str], window_frames: int) -> None:
        self.texts = sorted({normalise(raw) for video in videos for raw in data.expressions(video, scored=False)})
        index = {text: i for i, text in enumerate(self.texts)}
        self.tracks: list[LabelledTrack] = []
        positive = np.zeros(len(self.texts))
        for video in videos:
            raw = data.expressions(video, scored=False)
            candidates = np.array(sorted({index[normalise(e)] for e in raw}), np.int64)
            size = data.size(video)
            for thing in data.objects(video):
                fits = [np.array(sorted(index[e] for e in of if e in index), np.int64) for of in thing.expressions]
                for some in fits:
                    positive[some] += 1
                labelled = np.array([len(f) > 0 for f in fits], bool)
                if labelled.sum() <= window_frames:
                    continue
                all_boxes = Boxes(thing.frame_F, np.full(len(thing.frame_F), thing.id), thing.xyxy_F4)
                where = geometry(all_boxes, size, window_frames // 2)
                self.tracks.append(
                    LabelledTrack(
                        video,
                        all_boxes.take(labelled),
                        where[labelled],
                        tuple(f for f, yes in zip(fits, labelled, strict=True) if yes),
                        candidates,
                    )
                )
        if not self.tracks:
            who = f"no object of {', '.join(videos) or 'no video'}"
            what = f"no positive example: {who} has more than {window_frames} frames with an expression"
            raise DataError([Problem(LABELS_FILE, what)])
        self.share = positive / positive.sum()  # of all positive boxes, by expression


def training_plan(tracks: Sequence[LabelledTrack], config: Config, rng: Generator) -> pa.Table:
    """One epoch's windows in random order, with everything random drawn."""
    c, expressions = config, config.expressions_per_window
    count, part = len(tracks) * c.windows_per_track, c.window_frames // c.looks
    order = rng.permutation(count)
    frame = np.empty((count, c.looks), np.int64)
    box, where = np.empty((count, c.looks, 4)), np.empty((count, c.looks, 8), np.float32)
    expression = np.empty((count, expressions), np.int64)
    label = np.empty((count, expressions), np.float32)
    for row, at in enumerate(order):
        track = tracks[at % len(tracks)]
        start = int(rng.integers(len(track.boxes) - c.window_frames + 1))
        look = start + np.arange(c.looks) * part + rng.integers(part, size=c.looks)
        frame[row], box[row], where[row] = track.boxes.frame_N[look], track.boxes.xyxy_N4[look], track.geometry_F8[look]
        fits = track.fits[int(rng.choice(look))]
        expression[row] = _draw_expressions(track.candidates, fits, c, rng)
        label[row] = np.isin(expression[row], fits)
    return pa.table(
        {
            "video": [tracks[at % len(tracks)].video for at in order],
            "frame": _lists(frame),
            "box": _lists(box),
            "geometry": _lists(where),
            "crop_window": _lists(_crop_windows((count, c.looks), c.crop_scale, rng)),
            "frame_window": _lists(_crop_windows((count, c.looks), c.crop_scale, rng)),
            "expression": _lists(expression),
            "label": _lists(label),
        }
    )


def _draw_expressions(
    candidates: NDArray[np.int64], fits: NDArray[np.int64], config: Config, rng: Generator
) -> NDArray[np.int64]:
    count = config.expressions_per_window
    if config.positive_share is None:
        return rng.choice(candidates, count, replace=count > len(candidates))
    others = np.setdiff1d(candidates, fits)
    wanted = count * config.positive_share
    positives = int(wanted) + bool(rng.random() < wanted - int(wanted)) if len(others) else count
    drawn = rng.choice(fits, positives, replace=positives > len(fits))
    negatives = count - positives
    if not negatives:
        return drawn
    return np.concatenate([drawn, rng.choice(others, negatives, replace=negatives > len(others))])


def _crop_windows(shape: tuple[int, ...], least: float, rng: Generator) -> NDArray[np.float64]:
    """RandomResizedCrop of a square: area share least..1, width / height 0.8..1, as shares of its side."""
    area = rng.uniform(least, 1, shape)
    ratio = np.exp(rng.uniform(np.log(np.maximum(0.8, area)), 0))  # a narrower one would be too high
    width, height = np.sqrt(area * ratio), np.minimum(np.sqrt(area / ratio), 1)
    left, top = rng.random(shape) * (1 - width), rng.random(shape) * (1 - height)
    return np.stack([left, top, width, height], -1)


def scoring_plan(video: str, boxes: Boxes, windows: Windows, geometry_N8: NDArray[np.float32]) -> pa.Table:
    """One row a frame in which some window looks at a box, with the rows of `boxes` to cut there."""
    looked = np.unique(windows.looked_WT)
    looked = looked[np.argsort(boxes.frame_N[looked], kind="stable")]
    frames, starts = np.unique(boxes.frame_N[looked], return_index=True)
    groups = np.split(looked, starts[1:]) if len(frames) else []
    return pa.table(
        {
            "video": pa.array([video] * len(frames), pa.string()),
            "frame": pa.array(frames, pa.int64()),
            "row": pa.array([g.tolist() for g in groups], pa.list_(pa.int64())),
            "box": pa.array([boxes.xyxy_N4[g].reshape(-1).tolist() for g in groups], pa.list_(pa.float64())),
            "geometry": pa.array([geometry_N8[g].reshape(-1).tolist() for g in groups], pa.list_(pa.float32())),
        }
    )


def _lists(array: NDArray[Any]) -> pa.Array:
    """One fixed-size list a row."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))


def _array(rows: pa.Table, name: str) -> NDArray[Any]:
    column = rows.column(name).combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(rows.num_rows, -1)


@dataclass(frozen=True, slots=True)
class Reader:
    """Rows of a plan to arrays: decodes frames, cuts crops. Runs in data workers; frames stay in `frames`."""

    crop_px: int
    frame_px: int
    frames: FrameCache

    def __call__(self, rows: pa.Table, store: Store) -> Arrays:
        """Training rows give windows, scoring rows frames with the crops in them."""
        return self._windows(rows, store) if "label" in rows.column_names else self._frames(rows, store)

    def _windows(self, rows: pa.Table, store: Store) -> Arrays:
        frame, box = _array(rows, "frame"), _array(rows, "box")
        count, looks = frame.shape
        crop_window, frame_window = _array(rows, "crop_window"), _array(rows, "frame_window")
        crops = np.empty((count, looks, self.crop_px, self.crop_px, 3), np.uint8)
        wholes = np.empty((count, looks, self.frame_px, self.frame_px, 3), np.uint8)
        for row, video in enumerate(rows.column("video").to_pylist()):
            for look in range(looks):
                image = self._image(store, video, int(frame[row, look]))
                part = slice(4 * look, 4 * look + 4)
                crops[row, look] = square(image.frame, box[row, part], self.crop_px, crop_window[row, part], image.size)
                wholes[row, look] = self._whole(image, frame_window[row, part])
        return {
            "crop": crops,
            "frame": wholes,
            "geometry": _array(rows, "geometry").reshape(count, looks, -1).astype(np.float32),
            "expression": _array(rows, "expression"),
            "label": _array(rows, "label").astype(np.float32),
        }

    def _frames(self, rows: pa.Table, store: Store) -> Arrays:
        wholes = np.empty((rows.num_rows, self.frame_px, self.frame_px, 3), np.uint8)
        crops: list[NDArray[np.uint8]] = []
        frame_of: list[int] = []
        places: list[NDArray[np.float32]] = []
        for number, row in enumerate(rows.to_pylist()):
            image = self._image(store, row["video"], row["frame"])
            wholes[number] = self._whole(image)
            for box in np.array(row["box"]).reshape(-1, 4):
                crops.append(square(image.frame, box, self.crop_px, size=image.size))
                frame_of.append(number)
            places.append(np.array(row["geometry"], np.float32).reshape(-1, 8))
        return {
            "frame": wholes,
            "crop": np.stack(crops),
            "frame_of": np.array(frame_of, np.int64),
            "geometry": np.concatenate(places),
            "row": np.concatenate([np.array(r, np.int64) for r in rows.column("row").to_pylist()]),
            "number": rows.column("frame").to_numpy().astype(np.int64),
            "video": np.array(rows.column("video").to_pylist(), np.str_),
        }

    def _image(self, store: Store, video: str, frame: int) -> Picture:
        return self.frames.picture(store, f"{frame_folder(video)}/{frame:06d}.png")

    def _whole(self, image: Picture, window: Numbers = WHOLE) -> NDArray[np.uint8]:
        return square(image.frame, (0, 0, *image.size), self.frame_px, window, image.size)
