"""Finds everything that is wrong with a Refer-KITTI data set, each with its place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ..problems import DataError, Findings, InputError, Problem, as_problems
from ..storage.store import Store, safe_path
from .refer_kitti import LABELS_FILE, SPLITS, ReferKitti, frame_folder, normalise

_COUNTED = ("videos", "frames", "objects", "expressions", "tracks")


def check(store: Store, *, decode: bool = True, tracks: str = "tracks") -> Findings:
    """Reads all of it: frames, labels, expressions, ground truth and tracks. Raises nothing about the data.

    Without `decode` frames are counted and one of each video is read. `tracks` is the folder of tracker output.
    """
    findings = Findings(counts=dict.fromkeys(_COUNTED, 0))
    data = ReferKitti(store)
    try:
        videos = [(split, video) for split in SPLITS for video in data.videos(split)]
        data.labelled_videos  # noqa: B018  reads the file
        data.frames.source(store)
    except InputError as error:
        findings.problems += as_problems(error, store.uri)
        return findings
    findings.problems += _duplicate_keys(store, LABELS_FILE)
    for split in SPLITS:
        if not data.videos(split):
            findings.problems.append(Problem("splits.json", f"split {split} has no video"))
    seen: dict[str, str] = {}
    for split, video in videos:
        if video in seen:
            findings.problems.append(Problem("splits.json", f"video {video} is in {seen[video]} and in {split}"))
            continue
        seen[video] = split
        findings.counts["videos"] += 1
        findings.problems += _check_video(data, video, split, tracks, findings.counts, decode)
    return findings


def _check_video(
    data: ReferKitti, video: str, split: str, tracks: str, counts: dict[str, int], decode: bool
) -> list[Problem]:
    problems: list[Problem] = []
    frames, of_frames = _check_frames(data, video, decode)
    problems += of_frames
    counts["frames"] += len(frames)
    if not frames:
        return problems
    for step in (_check_objects, _check_expressions):
        try:
            problems += step(data, video, frames, counts)
        except InputError as error:
            problems += as_problems(error, video)
    if split != "train":
        problems += _check_tracks(data, video, frames, tracks, counts)
    return problems


def _check_frames(data: ReferKitti, video: str, decode: bool) -> tuple[set[int], list[Problem]]:
    folder, source = frame_folder(video), data.frames.source(data.store)
    try:
        names = source.names(folder)
    except DataError as error:
        return set(), list(error.problems)
    if not names:
        return set(), [Problem(folder, "no frames")]

    def look(name: str) -> tuple[int | None, tuple[int, int] | None, Problem | None]:
        path = f"{folder}/{name}"
        stem = name.removesuffix(".png")
        if not name.endswith(".png") or not stem.isdigit() or len(stem) != 6:
            return None, None, Problem(path, "a frame's name must be six digits and .png")
        if not decode and name != names[0]:
            return int(stem), None, None
        try:
            content, size = source.read(path)
        except DataError as error:
            return int(stem), None, error.problems[0]
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return int(stem), size or image.size, None
        except (OSError, SyntaxError, ValueError) as error:
            return int(stem), None, Problem(path, f"frame won't decode: {error}")

    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(look, names))
    problems = [problem for _, _, problem in looks if problem]
    numbers = {number for number, _, _ in looks if number is not None}
    sizes = {size for _, size, _ in looks if size}
    if len(sizes) > 1:
        problems.append(Problem(folder, f"all frames must have one size, got {sorted(sizes)}"))
    for missing in sorted(set(range(max(numbers, default=-1) + 1)) - numbers):
        problems.append(Problem(f"{folder}/{missing:06d}.png", "frame is missing"))
    return numbers, problems


def _check_objects(data: ReferKitti, video: str, frames: set[int], counts: dict[str, int]) -> list[Problem]:
    problems: list[Problem] = []
    width, height = data.size(video)
    raw_of = {normalise(raw) for raw in data.expressions(video, scored=False)}
    for thing in data.objects(video):
        counts["objects"] += 1
        where = f"{LABELS_FILE}: {video}/{thing.id}"
        if not thing.category:
            problems.append(Problem(where, "has no category"))
        for frame, box, expressions in zip(thing.frame_F.tolist(), thing.xyxy_F4, thing.expressions, strict=True):
            at = f"{where}/{frame}"
            if frame not in frames:
                problems.append(Problem(at, f"label without a frame: {data.frame_path(video, frame)} is missing"))
            problems += _check_box(at, box, width, height)
            problems += [
                Problem(at, f"expression {e!r} has no file in expression/{video}") for e in sorted(expressions - raw_of)
            ]
    return problems


def _check_box(where: str, xyxy: np.ndarray, width: int, height: int) -> Iterator[Problem]:
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    if not np.isfinite(xyxy).all() or x2 <= x1 or y2 <= y1:
        yield Problem(
            where,
            f"box must have a positive width and height, got x {x1:.1f}..{x2:.1f}, y {y1:.1f}..{y2:.1f}",
        )
    elif x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
        yield Problem(where, f"box outside the frame of {width} x {height}: x {x1:.1f}..{x2:.1f}, y {y1:.1f}..{y2:.1f}")


def _check_expressions(data: ReferKitti, video: str, frames: set[int], counts: dict[str, int]) -> list[Problem]:
    problems: list[Problem] = []
    ids = {thing.id: set(thing.frame_F.tolist()) for thing in data.objects(video)}
    width, height = data.size(video)
    names = data.expressions(video, scored=False)
    if not names:
        problems.append(Problem(f"expression/{video}", "no expression files"))
    for raw in names:
        counts["expressions"] += 1
        where = f"expression/{video}/{raw}.json"
        if not normalise(raw):
            problems.append(Problem(where, "empty expression"))
            continue
        problems += _duplicate_keys(data.store, where)
        try:
            referred = data.referred(video, raw)
            truth = data.truth(video, raw)
        except InputError as error:
            problems += as_problems(error, where)
            continue
        if not any(referred.values()):
            problems.append(Problem(where, "no positive example: refers to no object in any frame"))
        for frame, numbers in referred.items():
            unknown = sorted(n for n in numbers if frame not in ids.get(n, ()))
            if unknown:
                problems.append(Problem(f"{where}: frame {frame}", f"objects {unknown} have no box there"))
        pairs = list(zip(truth.frame_N.tolist(), truth.id_N.tolist(), strict=True))
        if len(set(pairs)) < len(pairs):
            twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})[0]
            problems.append(
                Problem(
                    f"gt_template/{video}/{raw}/gt.txt",
                    f"duplicate ids: object {twice[1]} twice in frame {twice[0]}",
                )
            )
        for frame, box in zip(truth.frame_N.tolist(), truth.xyxy_N4, strict=True):
            problems += _check_box(f"gt_template/{video}/{raw}/gt.txt: frame {frame}", box, width, height)
    return problems


def _check_tracks(data: ReferKitti, video: str, frames: set[int], folder: str, counts: dict[str, int]) -> list[Problem]:
    where = f"{folder}/{video}"
    try:
        tracks = data.tracks(video, safe_path(folder))
    except InputError as error:
        return as_problems(error, where)
    counts["tracks"] += len(set(tracks.id_N.tolist()))
    problems = []
    key = np.stack([tracks.frame_N, tracks.id_N], 1)
    unique, count = np.unique(key, axis=0, return_counts=True)
    problems += [
        Problem(where, f"duplicate ids: track {i} has {n} boxes in frame {f}")
        for (f, i), n in zip(unique, count, strict=True)
        if n > 1
    ]
    for frame in sorted(set(tracks.frame_N.tolist()) - frames):
        problems.append(Problem(where, f"track without a frame: {data.frame_path(video, frame)} is missing"))
    return problems


def _duplicate_keys(store: Store, path: str) -> list[Problem]:
    """Keys that stand twice in one object of a JSON file: the later would silently win."""
    twice: list[str] = []

    def remember(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        twice.extend(sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else [])
        return dict(pairs)

    try:
        json.loads(store.read(path), object_pairs_hook=remember)
    except (FileNotFoundError, ValueError):
        return []
    return [Problem(path, f"duplicate ids: key {key!r} stands twice") for key in twice]
