"""What single files of Refer-KITTI mean: expressions, labelled objects, rows of MOT files. See `refer_kitti`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems import DataError, Problem, first
from .shared.rows import parse_rows, whole

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
        frames = [(whole(frame, "frame"), ids) for frame, ids in content["label"].items()]
        referred = {frame: frozenset(whole(i, "id") for i in ids) for frame, ids in frames}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f": {error}" if isinstance(error, ValueError) else ""
        raise DataError([Problem(where, f'must hold {{"label": {{frame: [object ids]}}}}{why}')]) from None
    _check_distinct([frame for frame, _ in frames], where)
    return referred


def dangling(referred: Mapping[int, Iterable[int]], frames_of: Mapping[int, Collection[int]]) -> list[tuple[int, int]]:
    """(frame, id) of what an expression refers to and no box is there for, sorted; `frames_of` are the frames in which
    an id has one. These are left out of ground truth."""
    pairs = ((frame, number) for frame, ids in referred.items() for number in ids)
    return sorted((frame, number) for frame, number in pairs if frame not in frames_of.get(number, ()))


def dangling_problem(where: str, pairs: Sequence[tuple[int, int]]) -> Problem:
    """What to say of an expression with such pairs."""
    ids = first(sorted({number for _, number in pairs}))
    places = first([f"{number} in frame {frame}" for frame, number in pairs])
    return Problem(where, f"left out: objects [{ids}] have no box there: {len(pairs)} times: {places}")


def parse_object(
    video: str, key: str, content: Any, size: tuple[int, int], left_out: list[Problem] | None = None
) -> LabelledObject:
    """One object of Refer-KITTI_labels.json, boxes in pixels of images of `size` (width, height). A frame without a box
    is left out, and named in `left_out`. Raises DataError."""
    where = f"{LABELS_FILE}: {video}/{key}"
    rows: list[tuple[int, list[float], frozenset[str]]] = []
    category, empty = "", list[int]()
    try:
        number, frames = whole(key, "id"), [(whole(frame, "frame", 0), value) for frame, value in content.items()]
    except (ValueError, AttributeError) as error:
        raise DataError([Problem(where, f"{_RULE}: {error}")]) from None
    _check_distinct([frame for frame, _ in frames], where)
    for frame, value in sorted(frames, key=lambda row: row[0]):
        try:
            box = value["bbox"]
            if box is None or box == []:
                empty.append(frame)
                continue
            box = np.array(box, np.float64).reshape(4).tolist()
            category = category or next(iter(_as_list(value.get("category") or [])), "")
            rows.append((frame, box, frozenset(_texts(value))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError([Problem(f"{where}/{frame}", f"{_RULE}: {error!r}")]) from None
    if empty and left_out is not None:
        many = f"left out: bbox is empty in {len(empty)} frames: {first(empty)}"
        alone = Problem(f"{where}/{empty[0]}", "left out: bbox is empty")
        left_out.append(alone if len(empty) == 1 else Problem(where, many))
    return LabelledObject(
        video,
        number,
        category,
        np.array([frame for frame, _, _ in rows], np.int64),
        to_xyxy(np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4)) * np.array(size * 2),
        tuple(expressions for _, _, expressions in rows),
    )


_RULE = "must map frames to category, expressions and bbox"


def _check_distinct(numbers: Sequence[int], where: str) -> None:
    """Raises DataError where `3` and `03`, or `3.0`, are keys of one object: the later would silently win."""
    if len(set(numbers)) < len(numbers):
        again = sorted({n for n in numbers if numbers.count(n) > 1})
        raise DataError([Problem(where, f"duplicate ids: frame {first(again)} stands twice")])


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _texts(value: Mapping[str, Any]) -> list[str]:
    for key in ("expression_new", "expression_raw", "expression"):
        if key in value:
            return [normalise(e) for e in value[key]]
    raise KeyError("expression_new")


def read_mot(text: str, where: str, kind: str = "track", left_out: list[Problem] | None = None) -> NDArray[np.float64]:
    """Rows frame,id,x,y,w,h,score of a comma-separated MOT file, N x 7.

    Rows of id -1 have no identity: they are left out, and counted in `left_out`. Raises DataError that names every bad
    line, and each id that stands in one frame twice; `kind` is what an id is of.
    """
    every = parse_rows(text, where, ",", range(6, 11), _mot_row)
    rows = [(line, row) for line, row in every if row[1] >= 0]
    if left_out is not None and len(rows) < len(every):
        without = first([f"{where}:{line}" for line, row in every if row[1] < 0])
        left_out.append(Problem(where, f"left out: {len(every) - len(rows)} boxes without an identity (-1): {without}"))
    lines: dict[tuple[int, int], list[int]] = {}
    for line, row in rows:
        lines.setdefault((int(row[0]), int(row[1])), []).append(line)
    problems = [
        Problem(
            f"{where}:{at[1]}", f"duplicate ids: {kind} {i} has {len(at)} boxes in frame {f}, the first in line {at[0]}"
        )
        for (f, i), at in lines.items()
        if len(at) > 1
    ]
    if problems:
        raise DataError(problems)
    return np.array([row for _, row in rows], np.float64).reshape(-1, 7)


def _mot_row(column: Sequence[str]) -> list[float]:
    frame, number = whole(column[0], "frame", 0), whole(column[1], "id", -1)
    rest = [float(value) for value in column[2:7]]
    if not np.isfinite(rest).all():
        raise ValueError(f"box and score must be finite, got {', '.join(column[2:7])}")
    return [frame, number, *rest, *([1.0] if len(rest) == 4 else [])]


def to_xyxy(xywh_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes x, y, w, h as x1, y1, x2, y2."""
    return np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], axis=1)
