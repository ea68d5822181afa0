"""Finds everything that is wrong with a Refer-KITTI data set, each with its place."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..frames.decode import PictureError
from ..frames.decode import decode as decoded
from ..problems import Findings, InputError, OfFile, Problem, as_problems, by_folder, first
from ..storage.leavings import data_names
from ..storage.store import Store, safe_path
from .refer_kitti import FRAMES, LABELS_FILE, SPLITS, ReferKitti, frame_folder, normalise
from .refer_kitti_parse import dangling, dangling_problem

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
        findings.warnings += _in_no_split(data, {video for _, video in videos})
    except InputError as error:
        findings.problems += as_problems(error, store.uri)
        return findings
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
        _check_video(data, video, split, tracks, findings, decode)
    findings.warnings += data.left_out
    return findings


def _in_no_split(data: ReferKitti, taken: set[str]) -> list[Problem]:
    there = {
        *data_names(data.store, "expression"),
        *data.labelled_videos,
        *data.frames.source(data.store).names(FRAMES),
    }
    others = sorted(name for name in there - taken if "." not in name)  # a file among them is no video
    return [Problem("splits.json", f"left out: videos in no split: {', '.join(others)}")] if others else []


def _check_video(data: ReferKitti, video: str, split: str, tracks: str, findings: Findings, decode: bool) -> None:
    try:
        frames, problems = _check_frames(data, video, decode)
    except InputError as error:
        frames, problems = set(), as_problems(error, frame_folder(video))
    findings.problems += problems
    findings.counts["frames"] += len(frames)
    if not frames:
        return
    for step in (_check_objects, _check_expressions):
        try:
            step(data, video, frames, findings)
        except InputError as error:
            findings.problems += as_problems(error, video)
    if split != "train":
        findings.problems += _check_tracks(data, video, frames, tracks, findings.counts)


def _check_frames(data: ReferKitti, video: str, decode: bool) -> tuple[set[int], list[Problem]]:
    folder, source = frame_folder(video), data.frames.source(data.store)
    names = source.names(folder)
    if not names:
        return set(), [Problem(folder, "no frames")]

    def look(name: str) -> tuple[int | None, tuple[int, int] | None, list[OfFile]]:
        path = f"{folder}/{name}"
        stem = name.removesuffix(".png")
        if not name.endswith(".png") or not stem.isdigit() or len(stem) != 6:
            rule = "frame's name must be six digits and .png"
            return None, None, [OfFile(Problem(path, f"a {rule}"), f"files are here whose name is wrong: a {rule}")]
        if not decode and name != names[0]:
            return int(stem), None, []
        try:
            content, size = source.read(path)
            return int(stem), size or decoded(content, turn=False).image.size, []
        except FileNotFoundError:
            return int(stem), None, [OfFile(Problem(path, "frame is missing"), _MANY_MISSING)]
        except PictureError as error:
            broken = Problem(path, f"frame won't decode: {error}")
            return int(stem), None, [OfFile(broken, _MANY_BROKEN, str(error))]
        except InputError as error:
            return int(stem), None, [OfFile(p, "frames can't be read", cause=p.what) for p in as_problems(error, path)]

    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(look, names))
    numbers = {number for number, _, _ in looks if number is not None}
    sizes = {size for _, size, _ in looks if size}
    gaps = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    missing = [OfFile(Problem(f"{folder}/{gap:06d}.png", "frame is missing"), _MANY_MISSING) for gap in gaps]
    problems = by_folder([*(one for _, _, found in looks for one in found), *missing])
    if len(sizes) > 1:
        problems.append(Problem(folder, f"all frames must have one size, got {sorted(sizes)}"))
    return numbers, problems


_MANY_MISSING, _MANY_BROKEN = "frames are missing", "frames won't decode"


def _check_objects(data: ReferKitti, video: str, frames: set[int], findings: Findings) -> None:
    width, height = data.size(video)
    raw_of = {normalise(raw) for raw in data.expressions(video, scored=False)}
    no_frame, no_file = [], list[tuple[str, str]]()
    for thing in data.objects(video):
        findings.counts["objects"] += 1
        where = f"{LABELS_FILE}: {video}/{thing.id}"
        if not thing.category:
            findings.warnings.append(Problem(where, "has no category"))
        for frame, box, expressions in zip(thing.frame_F.tolist(), thing.xyxy_F4, thing.expressions, strict=True):
            at = f"{where}/{frame}"
            if frame not in frames:
                what = f"label without a frame: {data.frame_path(video, frame)} is missing"
                no_frame.append(OfFile(Problem(at, what), "labels without a frame"))
            findings.problems += _check_box(at, box, width, height)
            no_file += [(at, expression) for expression in sorted(expressions - raw_of)]
    findings.problems += by_folder(no_frame)
    if no_file:
        files = first(sorted({repr(expression) for _, expression in no_file}))
        what = (
            f"left out: expressions {files} have no file in expression/{video}: {len(no_file)} times: {no_file[0][0]}"
        )
        findings.warnings.append(Problem(f"{LABELS_FILE}: {video}", what))


def _check_box(where: str, xyxy: np.ndarray, width: int, height: int) -> Iterator[Problem]:
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    if not np.isfinite(xyxy).all() or x2 <= x1 or y2 <= y1:
        yield Problem(
            where,
            f"box must have a positive width and height, got x {x1:.1f}..{x2:.1f}, y {y1:.1f}..{y2:.1f}",
        )
    elif x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
        yield Problem(where, f"box outside the frame of {width} x {height}: x {x1:.1f}..{x2:.1f}, y {y1:.1f}..{y2:.1f}")


def _check_expressions(data: ReferKitti, video: str, frames: set[int], findings: Findings) -> None:
    problems, warnings, counts = findings.problems, findings.warnings, findings.counts
    frames_of = {thing.id: set(thing.frame_F.tolist()) for thing in data.objects(video)}
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
        try:
            referred = data.referred(video, raw)
            truth = data.truth(video, raw)
        except InputError as error:
            problems += as_problems(error, where)
            continue
        pairs = dangling(referred, frames_of)
        if not any(referred.values()):
            problems.append(Problem(where, "no positive example: refers to no object in any frame"))
        if pairs:
            warnings.append(dangling_problem(where, pairs))
            counts["dangling_ids"] = counts.get("dangling_ids", 0) + len(pairs)
        for frame, box in zip(truth.frame_N.tolist(), truth.xyxy_N4, strict=True):
            problems += _check_box(f"gt_template/{video}/{raw}/gt.txt: frame {frame}", box, width, height)


def _check_tracks(data: ReferKitti, video: str, frames: set[int], folder: str, counts: dict[str, int]) -> list[Problem]:
    where = f"{folder}/{video}"
    try:
        tracks = data.tracks(video, safe_path(folder))
    except InputError as error:
        return as_problems(error, where)
    counts["tracks"] += len(set(tracks.id_N.tolist()))
    missing = sorted(set(tracks.frame_N.tolist()) - frames)
    if len(missing) > 1:
        named = first([f"{frame:06d}.png" for frame in missing])
        return [Problem(where, f"tracks without a frame: {len(missing)} are missing: {named}")]
    return [Problem(where, f"track without a frame: {data.frame_path(video, f)} is missing") for f in missing]
