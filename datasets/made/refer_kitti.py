"""Makes a Refer-KITTI data set: frames, labels, expressions, ground truth, tracker output, splits.

Movement comes from real KITTI label files where a folder of them is given, else from `scene.procedural`.
Deterministic in its arguments.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from ..layouts import kitti
from ..layouts.refer_kitti import PUBLISHED_SPLITS, category_of, frame_folder
from ..layouts.refer_kitti_write import VideoLabels, write_expression, write_labels, write_tracks
from ..problems import DataError, InputError, Problem
from ..storage.store import Store
from .expressions import expressions_of
from .paint import Painter, draw_weather
from .scene import HEIGHT, WIDTH, Scene, from_labels, procedural
from .tracker import Noise, track

CATEGORIES = {"car": ("Car", "Van", "Truck"), "pedestrian": ("Pedestrian", "Person")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make."""

    videos: int = 22  # procedural videos; with KITTI labels, all of Refer-KITTI's that are there
    frames: int = 60  # a procedural video has; at 10 Hz
    width: int = 416  # of an image in pixels; KITTI's own is 1242, and 15 times slower to decode
    expressions: int = 24  # at most, a video
    seed: int = 0
    kitti_labels: str | None = None  # folder of <video>.txt
    kitti_tracks: str | None = None  # folder of <video>.txt, tracker output for cars

    def __post_init__(self) -> None:
        for name, low in (("videos", 4), ("frames", 16), ("width", 64), ("expressions", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise InputError(f"{name} must be >= {low}, got {getattr(self, name)}")
        if self.kitti_tracks and not self.kitti_labels:
            raise InputError("kitti_tracks needs kitti_labels: tracks must belong to the scene's objects")


def find_tracks(labels: str | None, tracks: str | None) -> str | None:
    """The folder of track files to use: the one given, `none` for made ones, or StrongSORT's beside the labels."""
    if tracks is not None or labels is None:
        return None if tracks == "none" else tracks
    beside = Path(labels).parent / "tracks" / "YOLOX-STRONG-SORT"
    return str(beside) if beside.is_dir() else None


def make(out: Store, recipe: Recipe, said: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Writes the data set to an empty `out`; `said` hears one line a video. Returns counts."""
    if out.names():
        raise InputError(f"{out.uri} must be empty or new")
    splits = _splits(recipe)
    videos = sorted(video for names in splits.values() for video in names)
    made: list[tuple[VideoLabels, dict[str, dict[int, list[int]]]]] = []
    with ThreadPoolExecutor(2) as writers:
        for video in videos:
            rng = np.random.default_rng((recipe.seed, int(video)))
            scene = _scene(video, recipe, rng)
            labels, referred = _write_video(out, scene, recipe, rng, video in splits["test"], writers)
            made.append((labels, referred))
            counts = f"{scene.n_frames} frames, {len(scene.actors)} objects, {len(labels.id_N)} boxes"
            said(f"video {video}: {counts}, {len(referred)} expressions")
    write_labels(out, [labels for labels, _ in made], {labels.video: r for labels, r in made})
    out.write("splits.json", json.dumps(splits, indent=1).encode())
    recorded = {k: v for k, v in asdict(recipe).items() if not k.startswith("kitti_")}
    recorded |= {
        "from_kitti_labels": recipe.kitti_labels is not None,
        "frames_are": "frame f is image f, from 0",
    }
    out.write("made.json", json.dumps(recorded, indent=1).encode())
    return {
        "videos": len(videos),
        "frames": sum(len(out.names(frame_folder(video))) for video in videos),
        "objects": sum(len(set(labels.id_N.tolist())) for labels, _ in made),
        "expressions": sum(len(r) for _, r in made),
    }


def _splits(recipe: Recipe) -> dict[str, list[str]]:
    if recipe.kitti_labels is None:
        names = [f"{i + 1:04d}" for i in range(recipe.videos)]
        tested = max(1, round(recipe.videos * 0.18))
        held = max(1, round(recipe.videos * 0.14))
        cuts = np.cumsum([recipe.videos - tested - 2 * held, held, held])
        parts = np.split(np.array(names), cuts)
        return {s: p.tolist() for s, p in zip(("train", "calibration", "validation", "test"), parts, strict=True)}
    there = set(Store(recipe.kitti_labels).names())
    splits = {s: [v for v in videos if f"{v}.txt" in there] for s, videos in PUBLISHED_SPLITS.items()}
    missing = [split for split, videos in splits.items() if not videos]
    if missing:
        raise DataError(
            [Problem(recipe.kitti_labels, f"no label file of Refer-KITTI's {', '.join(missing)} videos here")]
        )
    return splits


def _scene(video: str, recipe: Recipe, rng: Generator) -> Scene:
    if recipe.kitti_labels is None:
        return procedural(video, recipe.frames, rng)
    text = Store(recipe.kitti_labels).read(f"{video}.txt").decode()
    rows = kitti.read_labels(text, f"{recipe.kitti_labels}/{video}.txt")
    return from_labels(video, rows, int(rows.frame_N.max()) + 1, rng)


def _write_video(
    out: Store, scene: Scene, recipe: Recipe, rng: Generator, test: bool, writers: ThreadPoolExecutor
) -> tuple[VideoLabels, dict[str, dict[int, list[int]]]]:
    video = scene.video
    size = (recipe.width, round(recipe.width * HEIGHT / WIDTH))
    scale = np.array([size[0] / scene.size[0], size[1] / scene.size[1]] * 2)
    painter = Painter(scene, draw_weather(rng), size)
    seed = int(rng.integers(1 << 30))

    def write_frame(number: int) -> None:
        image = Image.fromarray(painter.frame(number, np.random.default_rng((seed, number))))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        out.write(f"{frame_folder(video)}/{number:06d}.png", buffer.getvalue())

    list(writers.map(write_frame, range(scene.n_frames)))
    referred = expressions_of(scene, rng, test=test, most=recipe.expressions)
    for raw, frames in referred.items():
        write_expression(out, video, raw, frames)
    labels = _labels(scene, size, scale)
    for category, kinds in CATEGORIES.items():
        rows = _tracks(scene, category, kinds, recipe, rng)
        write_tracks(out, video, category, [(f, i, *(np.array(box) * scale), s) for f, i, *box, s in rows])
    _write_labels_with_ids(out, labels)
    return labels, referred


def _labels(scene: Scene, size: tuple[int, int], scale: np.ndarray) -> VideoLabels:
    return VideoLabels(
        scene.video,
        size,
        np.concatenate([a.frame_F for a in scene.actors]),
        np.concatenate([np.full(len(a.frame_F), a.id) for a in scene.actors]),
        np.concatenate([np.full(len(a.frame_F), category_of(a.kind)) for a in scene.actors]),
        np.concatenate([a.xyxy_F4 for a in scene.actors]) * scale,
    )


def _tracks(
    scene: Scene, category: str, kinds: tuple[str, ...], recipe: Recipe, rng: Generator
) -> list[tuple[float, ...]]:
    made: list[tuple[float, ...]] = list(track(scene, kinds, rng, Noise()))
    if category != "car" or recipe.kitti_tracks is None:
        return made
    path = f"{scene.video}.txt"
    rows = kitti.read_labels(Store(recipe.kitti_tracks).read(path).decode(), f"{recipe.kitti_tracks}/{path}")
    box = rows.xyxy_N4
    xywh = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1)
    score = np.where(np.isfinite(rows.score_N), rows.score_N, 1.0)
    return [
        (float(f), float(i), *map(float, b), float(s))
        for f, i, b, s in zip(rows.frame_N, rows.id_N, xywh, score, strict=True)
    ]


def _write_labels_with_ids(out: Store, labels: VideoLabels) -> None:
    relative = labels.xyxy_N4 / np.array(labels.size * 2)
    lines: Mapping[int, list[str]] = {int(f): [] for f in np.unique(labels.frame_N)}
    for frame, number, (x1, y1, x2, y2) in zip(labels.frame_N, labels.id_N, relative, strict=True):
        lines[int(frame)].append(f"0 {number} {x1:.6f} {y1:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    for frame, rows in lines.items():
        out.write(f"KITTI/labels_with_ids/image_02/{labels.video}/{frame:06d}.txt", "".join(rows).encode())
