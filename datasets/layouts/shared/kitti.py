"""KITTI tracking files: labels, detections and tracks (devkit_tracking/readme.txt).

Frames count from 0: row frame f belongs to image `<f:06d>.png`. Boxes are x1, y1, x2, y2 in pixels of
the image they were written for, 0-based, corners included as real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import parse_rows, whole

# Image width and height of the tracking sequences whose images differ from 1242 x 375.
SIZES = {"0014": (1224, 370), "0015": (1224, 370), "0016": (1224, 370), "0017": (1224, 370)}
SIZES |= {"0018": (1238, 374), "0019": (1238, 374), "0020": (1241, 376)}
CLASS_NAMES = {1: "Pedestrian", 2: "Car", 3: "Cyclist"}  # of PointRCNN's detection files


def image_size(video: str) -> tuple[int, int]:
    """Width and height in pixels of a tracking sequence's images."""
    return SIZES.get(video, (1242, 375))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N rows of one video's file, in the file's order. What a file does not hold is NaN or -1."""

    frame_N: NDArray[np.int64]
    id_N: NDArray[np.int64]  # -1: no identity (DontCare, detections)
    category_N: NDArray[np.str_]
    xyxy_N4: NDArray[np.float64]
    score_N: NDArray[np.float64]
    occluded_N: NDArray[np.int64]  # 0 visible, 1 partly, 2 largely, 3 unknown
    location_N3: NDArray[np.float64]  # x right, y down, z forward, metres, of the box's bottom centre
    size_N3: NDArray[np.float64]  # height, width, length in metres
    rotation_y_N: NDArray[np.float64]  # radians; -pi/2 faces away from the camera

    def __len__(self) -> int:
        return len(self.frame_N)

    def take(self, index: NDArray[Any]) -> Rows:
        """The rows of a mask or an index array."""
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def scaled(self, x: float, y: float) -> Rows:
        """The same rows for images resized by the factors x and y."""
        return replace(self, xyxy_N4=self.xyxy_N4 * np.array([x, y, x, y]))


def read_labels(text: str, where: str) -> Rows:
    """Rows of a label or track file: 17 columns, and in tracks one or two more, the last the score.

    Raises DataError that names every bad line.
    """
    return _parse(text, where, None, (17, 18, 19), _label_row)


def read_detections(text: str, where: str) -> Rows:
    """Rows of a PointRCNN detection file as AB3DMOT distributes them: 15 columns with commas."""
    return _parse(text, where, ",", (15,), _detection_row)


def write_labels(rows: Rows) -> str:
    """The text of a label file with 17 columns, or 18 where every row has a score."""
    scored = len(rows) > 0 and bool(np.isfinite(rows.score_N).all())
    lines = []
    for i in range(len(rows)):
        box = " ".join(f"{v:.6f}" for v in rows.xyxy_N4[i])
        rest = " ".join(
            "-1" if not np.isfinite(v) else f"{v:.6f}"
            for v in (*rows.size_N3[i], *rows.location_N3[i], rows.rotation_y_N[i])
        )
        line = f"{rows.frame_N[i]} {rows.id_N[i]} {rows.category_N[i]} -1 {rows.occluded_N[i]} -10 {box} {rest}"
        lines.append(f"{line} {rows.score_N[i]:.6f}" if scored else line)
    return "".join(f"{line}\n" for line in lines)


_Row = tuple[int, int, str, list[float], float, int, list[float], list[float], float]


def _label_row(column: Sequence[str]) -> _Row:
    number = [float(v) for v in column[6:]]
    score = number[-1] if len(number) > 11 else float("nan")
    occluded = int(float(column[4]))
    return (
        whole(column[0], "frame", 0),
        whole(column[1], "id"),
        column[2],
        number[:4],
        score,
        occluded,
        number[7:10],
        number[4:7],
        number[10],
    )


def _detection_row(column: Sequence[str]) -> _Row:
    frame, kind = whole(column[0], "frame", 0), whole(column[1], "class")
    if kind not in CLASS_NAMES:
        raise ValueError(f"class must be one of {sorted(CLASS_NAMES)}, got {kind}")
    n = [float(v) for v in column[2:]]
    return frame, -1, CLASS_NAMES[kind], n[:4], n[4], -1, n[8:11], n[5:8], n[11]


def _parse(
    text: str, where: str, sep: str | None, widths: Sequence[int], parse: Callable[[Sequence[str]], _Row]
) -> Rows:
    def finite(column: list[str]) -> _Row:
        row = parse(column)
        if not np.isfinite(row[3]).all():
            raise ValueError(f"box must be finite, got {row[3]}")
        return row

    return rows_of([row for _, row in parse_rows(text, where, sep, widths, finite)])


def rows_of(rows: Sequence[_Row]) -> Rows:
    """Rows from tuples (frame, id, category, xyxy, score, occluded, location, size, rotation_y)."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    return Rows(
        frame_N=np.array(columns[0], np.int64),
        id_N=np.array(columns[1], np.int64),
        category_N=np.array(columns[2], np.str_),
        xyxy_N4=np.array(columns[3], np.float64).reshape(-1, 4),
        score_N=np.array(columns[4], np.float64),
        occluded_N=np.array(columns[5], np.int64),
        location_N3=np.array(columns[6], np.float64).reshape(-1, 3),
        size_N3=np.array(columns[7], np.float64).reshape(-1, 3),
        rotation_y_N=np.array(columns[8], np.float64),
    )
