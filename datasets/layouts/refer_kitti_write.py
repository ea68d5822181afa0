"""Writes the Refer-KITTI layout, and builds its label files from KITTI labels and expression files.

See `refer_kitti` for the layout and for the two conventions of `gt.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems import DataError, Problem
from ..storage.store import Store
from .refer_kitti import Convention
from .refer_kitti_parse import LABELS_FILE, category_of, normalise, parse_expression
from .shared import kitti
from .shared.annotations import read_json

ROW_MEANING = {
    "aligned": "gt.txt row f: boxes of image f, ids of key f; tenth column 0",
    "published": "gt.txt row f: boxes of image f, ids of key f-1, no row 0; tenth column 1",
}
Referred = Mapping[int, Iterable[int]]  # frame -> object ids


@dataclass(frozen=True, slots=True)
class VideoLabels:
    """All boxes of a video, N rows, in pixels of images of `size`."""

    video: str
    size: tuple[int, int]
    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]
    category_N: NDArray[np.str_]
    xyxy_N4: NDArray[np.float64]

    @classmethod
    def from_kitti(cls, video: str, rows: kitti.Rows, size: tuple[int, int]) -> VideoLabels:
        """The objects of a KITTI label file (DontCare left out), categories in Refer-KITTI's words."""
        rows = rows.take(rows.id_N >= 0)
        category_N = np.array([category_of(str(c)) for c in rows.category_N], np.str_)
        return cls(video, size, rows.frame_N, rows.id_N, category_N, rows.xyxy_N4)


def write_expression(store: Store, video: str, raw: str, referred: Referred) -> None:
    """`expression/<video>/<raw>.json`."""
    content = {
        "label": {str(frame): sorted(ids) for frame, ids in sorted(referred.items())},
        "ignore": {},
        "video_name": video,
        "sentence": raw.replace("-", " "),
        "frames": "key f is image f",
    }
    store.write(f"expression/{video}/{raw}.json", json.dumps(content).encode())


def labels_of(labels: VideoLabels, referred: Mapping[str, Referred]) -> dict[str, Any]:
    """One video of Refer-KITTI_labels.json: object -> frame -> category, expressions, relative bbox."""
    raw_of: dict[tuple[int, int], list[str]] = {}
    for raw, frames in sorted(referred.items()):
        for frame, ids in frames.items():
            for number in ids:
                raw_of.setdefault((number, frame), []).append(raw)
    width, height = labels.size
    objects: dict[str, dict[str, Any]] = {}
    for row in np.lexsort((labels.frame_N, labels.id_N)):
        frame, number = int(labels.frame_N[row]), int(labels.id_N[row])
        x1, y1, x2, y2 = labels.xyxy_N4[row]
        raw_here = raw_of.get((number, frame), [])
        objects.setdefault(str(number), {})[str(frame)] = {
            "category": [str(labels.category_N[row])],
            "expression_raw": raw_here,
            "expression_new": sorted({normalise(raw) for raw in raw_here}),
            "bbox": [round(float(v), 7) for v in (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)],
        }
    return objects


def ground_truth(labels: VideoLabels, referred: Referred, convention: Convention) -> str:
    """The text of a gt.txt."""
    offset = 1 if convention == "published" else 0
    wanted = {(frame + offset, number) for frame, ids in referred.items() for number in ids}
    lines = []
    for row in np.lexsort((labels.id_N, labels.frame_N)):
        frame, number = int(labels.frame_N[row]), int(labels.id_N[row])
        if (frame, number) in wanted:
            x1, y1, x2, y2 = labels.xyxy_N4[row]
            lines.append(f"{frame},{number},{x1:.3f},{y1:.3f},{x2 - x1:.3f},{y2 - y1:.3f},1,1,1,{offset}\n")
    return "".join(lines)


def write_labels(
    store: Store,
    videos: Sequence[VideoLabels],
    referred: Mapping[str, Mapping[str, Referred]],
    convention: Convention = "aligned",
) -> None:
    """Refer-KITTI_labels.json and gt_template/ for some videos; `referred` is video -> raw expression -> frames."""
    content: dict[str, Any] = {"convention": "frame f is image f; bbox x, y, w, h relative to the image"}
    for labels in videos:
        content[labels.video] = labels_of(labels, referred[labels.video])
        for raw, frames in referred[labels.video].items():
            text = ground_truth(labels, frames, convention)
            store.write(f"gt_template/{labels.video}/{raw}/gt.txt", text.encode())
    store.write("gt_template/CONVENTION.txt", f"{convention}: {ROW_MEANING[convention]}\n".encode())
    store.write(LABELS_FILE, json.dumps(content).encode())


def write_tracks(
    store: Store, video: str, category: str, rows: Iterable[Sequence[float]], folder: str = "tracks"
) -> None:
    """`<folder>/<video>/<category>/predict.txt` from rows frame, id, x, y, w, h, score."""
    lines = [f"{int(r[0])},{int(r[1])},{r[2]:.3f},{r[3]:.3f},{r[4]:.3f},{r[5]:.3f},{r[6]:.4f},-1,-1,-1\n" for r in rows]
    store.write(f"{folder}/{video}/{category}/predict.txt", "".join(lines).encode())


def write_labels_with_ids(store: Store, labels: VideoLabels) -> None:
    """`KITTI/labels_with_ids/image_02/<video>/<frame:06d>.txt`, for frames that have boxes."""
    relative_N4 = labels.xyxy_N4 / np.array(labels.size * 2)
    lines: Mapping[int, list[str]] = {int(frame): [] for frame in np.unique(labels.frame_N)}
    for frame, number, (x1, y1, x2, y2) in zip(labels.frame_N, labels.id_N, relative_N4, strict=True):
        lines[int(frame)].append(f"0 {number} {x1:.6f} {y1:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    for frame, rows in lines.items():
        path = f"KITTI/labels_with_ids/image_02/{labels.video}/{frame:06d}.txt"
        store.write(path, "".join(rows).encode())


def build_labels(
    store: Store, kitti_labels: Store, convention: Convention, labels_with_ids: Store | None = None
) -> dict[str, int]:
    """Builds Refer-KITTI_labels.json and gt_template/ of `store` from its expression/ files and KITTI label files.

    `labels_with_ids` (folders <video>/<frame:06d>.txt) are the boxes that the expressions' ids were made
    for. Where given, every id or box that differs from KITTI's is a problem, and DataError names them all.
    Returns counts: videos, expressions, objects, boxes.
    """
    problems: list[Problem] = []
    videos: list[VideoLabels] = []
    referred: dict[str, dict[str, Referred]] = {}
    for video in store.names("expression"):
        try:
            text = kitti_labels.read(f"{video}.txt").decode()
        except FileNotFoundError:
            problems.append(Problem(f"{kitti_labels.uri}/{video}.txt", "missing: expression/ has this video"))
            continue
        labels = VideoLabels.from_kitti(video, kitti.read_labels(text, f"{video}.txt"), kitti.image_size(video))
        referred[video] = {
            name.removesuffix(".json"): parse_expression(read_json(store, f"expression/{video}/{name}"), name)
            for name in store.names(f"expression/{video}")
        }
        problems += _unknown_ids(labels, referred[video])
        if labels_with_ids is not None:
            problems += compare_ids(labels, labels_with_ids)
        videos.append(labels)
    if not videos:
        problems.append(Problem(f"{store.uri}/expression", "no expression files here"))
    if problems:
        raise DataError(problems)
    write_labels(store, videos, referred, convention)
    return {
        "videos": len(videos),
        "expressions": sum(len(r) for r in referred.values()),
        "objects": sum(len(set(v.id_N.tolist())) for v in videos),
        "boxes": sum(len(v.id_N) for v in videos),
    }


def _unknown_ids(labels: VideoLabels, referred: Mapping[str, Referred]) -> list[Problem]:
    there = set(labels.id_N.tolist())
    problems = []
    for raw, frames in referred.items():
        unknown = {number for ids in frames.values() for number in ids} - there
        if unknown:
            problems.append(
                Problem(
                    f"expression/{labels.video}/{raw}.json",
                    f"names objects {sorted(unknown)} that KITTI's labels lack",
                )
            )
    return problems


def compare_ids(labels: VideoLabels, labels_with_ids: Store, tolerance_px: float = 2.0) -> list[Problem]:
    """Every id in a frame whose box in `labels_with_ids` is missing here or lies elsewhere, and the reverse."""
    problems = []
    width, height = labels.size
    here = {(int(f), int(i)): box for f, i, box in zip(labels.frame_N, labels.id_N, labels.xyxy_N4, strict=True)}
    there: dict[tuple[int, int], NDArray[np.float64]] = {}
    for name in labels_with_ids.names(labels.video):
        text = labels_with_ids.read(f"{labels.video}/{name}").decode()
        for line in text.splitlines():
            _, number, x, y, w, h = (float(v) for v in line.split())
            box = np.array([x * width, y * height, (x + w) * width, (y + h) * height])
            there[int(name.removesuffix(".txt")), int(number)] = box
    for frame, number in sorted(here.keys() | there.keys()):
        where = f"labels_with_ids/{labels.video}/{frame:06d}.txt: id {number}"
        if (frame, number) not in there:
            problems.append(Problem(where, "is in KITTI's labels only"))
        elif (frame, number) not in here:
            problems.append(Problem(where, "is not in KITTI's labels"))
        elif float(np.abs(here[frame, number] - there[frame, number]).max()) > tolerance_px:
            problems.append(Problem(where, f"its box differs from KITTI's by more than {tolerance_px} pixels"))
    return problems
