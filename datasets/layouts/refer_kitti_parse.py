"""What single files of Refer-KITTI mean: expressions, labelled objects, rows of MOT files. See `refer_kitti`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems import DataError, Problem

LABELS_FILE = "Refer-KITTI_labels.json"
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
    """An object of a video with its box and the expressions that hold for it in each of F frames, ascending."""

    video: str
    id: int
    category: str
    frame_F: NDArray[np.int64]
    xyxy_F4: NDArray[np.float64]  # pixels
    expressions: tuple[frozenset[str], ...]  # normalised, one set a frame


def parse_expression(content: Any, where: str) -> dict[int, frozenset[int]]:
    """Frame -> ids of the objects that an expression file's `content` refers to. Raises DataError."""
    try:
        return {int(frame): frozenset(int(i) for i in ids) for frame, ids in content["label"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError([Problem(where, 'must hold {"label": {frame: [object ids]}}')]) from None


def parse_object(video: str, key: str, content: Any, size: tuple[int, int]) -> LabelledObject:
    """One object of Refer-KITTI_labels.json, boxes in pixels of images of `size` (width, height). Raises DataError."""
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
            to_xyxy(xywh) * np.array(size * 2),
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


def to_xyxy(xywh_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes x, y, w, h as x1, y1, x2, y2."""
    return np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], axis=1)
