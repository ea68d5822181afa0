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

from ..contract import Tell
from ..problems import DataError, Problem
from ..storage.leavings import data_names
from ..storage.store import Store
from ..storage.text import read_text
from .refer_kitti import Convention
from .refer_kitti_parse import LABELS_FILE, category_of, dangling, dangling_problem, normalise, parse_expression
from .shared import kitti
from .shared.annotations import read_json
from .shared.rows import parse_rows, whole

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
    store: Store,
    kitti_labels: Store,
    convention: Convention,
    labels_with_ids: Store | None = None,
    warn: Tell = lambda _: None,
) -> dict[str, int]:
    """Builds Refer-KITTI_labels.json and gt_template/ of `store` from its expression/ files and KITTI label files.

    `labels_with_ids` (folders <video>/<frame:06d>.txt) are the boxes that the expressions' ids were made
    for. Where given, every id or box that differs from KITTI's is a problem, and DataError names them all. What an
    expression refers to and KITTI has no box for is left out and counted; `warn` gets a line for each such expression.
    Returns counts: videos, expressions, objects, boxes, and dangling_ids where there are any.
    """
    problems: list[Problem] = []
    videos: list[VideoLabels] = []
    referred: dict[str, dict[str, Referred]] = {}
    left_out = 0
    for video in data_names(store, "expression"):
        expressions = [n for n in data_names(store, f"expression/{video}") if n.endswith(".json")]
        if not expressions:
            continue  # a file beside the folders, or an empty folder
        try:
            text = read_text(kitti_labels, f"{video}.txt")
        except FileNotFoundError:
            problems.append(Problem(f"{kitti_labels.uri}/{video}.txt", "missing: expression/ has this video"))
            continue
        try:
            labels = VideoLabels.from_kitti(video, kitti.read_labels(text, f"{video}.txt"), kitti.image_size(video))
            _check_distinct(labels)
            referred[video] = _referred(store, video, expressions)
        except DataError as error:
            problems += error.problems
            continue
        for raw, pairs in _dangling(labels, referred[video]).items():
            left_out += len(pairs)
            warn(str(dangling_problem(f"expression/{video}/{raw}.json", pairs)))
        if labels_with_ids is not None:
            problems += compare_ids(labels, labels_with_ids)
        videos.append(labels)
    if not videos and not problems:
        problems.append(Problem(f"{store.uri}/expression", "no expression files here"))
    if problems:
        raise DataError(problems)
    write_labels(store, videos, referred, convention)
    return {
        "videos": len(videos),
        "expressions": sum(len(r) for r in referred.values()),
        "objects": sum(len(set(v.id_N.tolist())) for v in videos),
        "boxes": sum(len(v.id_N) for v in videos),
        **({"dangling_ids": left_out} if left_out else {}),
    }


def _check_distinct(labels: VideoLabels) -> None:
    """Raises DataError where an id has two boxes in one frame."""
    seen: set[tuple[int, int]] = set()
    problems = []
    for frame, number in zip(labels.frame_N.tolist(), labels.id_N.tolist(), strict=True):
        if (frame, number) in seen:
            what = f"duplicate ids: object {number} has two boxes in frame {frame}"
            problems.append(Problem(f"{labels.video}.txt", what))
        seen.add((frame, number))
    if problems:
        raise DataError(problems)


def _referred(store: Store, video: str, names: Iterable[str]) -> dict[str, Referred]:
    paths = {name.removesuffix(".json"): f"expression/{video}/{name}" for name in names}
    return {raw: parse_expression(read_json(store, path, distinct=True), path) for raw, path in paths.items()}


def _dangling(labels: VideoLabels, referred: Mapping[str, Referred]) -> dict[str, list[tuple[int, int]]]:
    """Raw expression -> (frame, id) of what has no box in KITTI's labels."""
    frames_of: dict[int, set[int]] = {}
    for frame, number in zip(labels.frame_N.tolist(), labels.id_N.tolist(), strict=True):
        frames_of.setdefault(number, set()).add(frame)
    found = {raw: dangling({f: set(ids) for f, ids in frames.items()}, frames_of) for raw, frames in referred.items()}
    return {raw: pairs for raw, pairs in found.items() if pairs}


def _box_with_id(column: Sequence[str]) -> tuple[float, ...]:
    return (whole(column[1], "id"), *map(float, column[2:]))


def compare_ids(labels: VideoLabels, labels_with_ids: Store, tolerance_px: float = 2.0) -> list[Problem]:
    """Every id in a frame whose box in `labels_with_ids` is missing here or lies elsewhere, and the reverse."""
    problems: list[Problem] = []
    width, height = labels.size
    here = {(int(f), int(i)): box for f, i, box in zip(labels.frame_N, labels.id_N, labels.xyxy_N4, strict=True)}
    there: dict[tuple[int, int], NDArray[np.float64]] = {}
    for name in data_names(labels_with_ids, labels.video):
        where = f"labels_with_ids/{labels.video}/{name}"
        try:
            frame = whole(name.removesuffix(".txt"), "the name of a file <frame>.txt", 0)
            rows = parse_rows(read_text(labels_with_ids, f"{labels.video}/{name}"), where, None, (6,), _box_with_id)
        except DataError as error:
            problems += error.problems
            continue
        except ValueError as error:
            problems.append(Problem(where, str(error)))
            continue
        for _, (number, x, y, w, h) in rows:
            there[frame, int(number)] = np.array([x * width, y * height, (x + w) * width, (y + h) * height])
    for frame, number in sorted(here.keys() | there.keys()):
        where = f"labels_with_ids/{labels.video}/{frame:06d}.txt: id {number}"
        if (frame, number) not in there:
            problems.append(Problem(where, "is in KITTI's labels only"))
        elif (frame, number) not in here:
            problems.append(Problem(where, "is not in KITTI's labels"))
        elif float(np.abs(here[frame, number] - there[frame, number]).max()) > tolerance_px:
            problems.append(Problem(where, f"its box differs from KITTI's by more than {tolerance_px} pixels"))
    return problems
