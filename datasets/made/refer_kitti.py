"""Driving scenes in Refer-KITTI's layout: frames, labels, expressions, ground truth, tracker output, splits.

Movement is procedural, or that of real KITTI label files. Deterministic in the recipe and the files it names.
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from ..contract import Tell
from ..layouts.refer_kitti import PUBLISHED_SPLITS, SPLITS, category_of, frame_folder
from ..layouts.refer_kitti_write import (
    VideoLabels,
    write_expression,
    write_labels,
    write_labels_with_ids,
    write_tracks,
)
from ..layouts.shared import kitti
from ..problems import DataError, InputError, Problem
from ..recipes import check_bounds, folder, number
from ..storage.leavings import data_names
from ..storage.store import Store
from ..storage.text import read_text
from .driving.expressions import expressions_of
from .driving.paint import Painter, draw_weather
from .driving.scene import HEIGHT, WIDTH, Scene
from .driving.tracker import Noise, track
from .driving.traffic import procedural
from .driving.trajectories import from_labels

CATEGORIES = {"car": ("Car", "Van", "Truck"), "pedestrian": ("Pedestrian", "Person")}
MADE_TRACKS = "none"  # as kitti_tracks: made ones, whatever lies beside the labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Driving scenes in Refer-KITTI's layout, procedural or from KITTI's labels."""

    videos: int = number(22, "Procedural videos; with KITTI labels: all of Refer-KITTI's that are there.", low=4)
    frames: int = number(60, "Frames of a procedural video, 10 a second.", low=16)
    width: int = number(416, "Width of a frame in pixels. KITTI's own is 1242, and 15 times slower to decode.", low=64)
    expressions: int = number(24, "Most expressions of a video.", low=1)
    seed: int = number(0, "Seed of everything random.", low=0)
    kitti_labels: str | None = folder("Folder of KITTI label files <video>.txt: objects move as they do.")
    kitti_tracks: str | None = folder(
        "Folder of KITTI track files <video>.txt for cars; `none`: made ones. Default: tracks/YOLOX-STRONG-SORT beside "
        "the labels' folder if it exists."
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.kitti_tracks not in (None, MADE_TRACKS) and not self.kitti_labels:
            raise InputError("kitti_tracks needs kitti_labels: tracks must belong to the scene's objects")

    @property
    def car_tracks(self) -> str | None:
        """The folder of track files that is used for cars; None: they are made."""
        if self.kitti_tracks is not None or self.kitti_labels is None:
            return None if self.kitti_tracks == MADE_TRACKS else self.kitti_tracks
        beside = Path(self.kitti_labels).parent / "tracks" / "YOLOX-STRONG-SORT"
        return str(beside) if beside.is_dir() else None


def make(out: Store, recipe: Recipe, tell: Tell = lambda _: None) -> dict[str, int | str]:
    """Writes the data set to an empty `out`; `tell` gets a line a video.

    Returns counts of videos, frames, objects and expressions, and which tracks the cars have. Raises InputError where
    `out` is not empty, DataError for label files that are missing or broken.
    """
    if data_names(out):
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
            tell(f"video {video}: {counts}, {len(referred)} expressions")
    write_labels(out, [labels for labels, _ in made], {labels.video: r for labels, r in made})
    out.write("splits.json", json.dumps(splits, indent=1).encode())
    recorded = {name: value for name, value in asdict(recipe).items() if not name.startswith("kitti_")}
    recorded |= {
        "from_kitti_labels": recipe.kitti_labels is not None,
        "frames_are": "frame f is image f, from 0",
    }
    out.write("made.json", json.dumps(recorded, indent=1).encode())
    return {
        "tracks_of_cars": recipe.car_tracks or "made",
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
        return {s: p.tolist() for s, p in zip(SPLITS, parts, strict=True)}
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
    text = read_text(Store(recipe.kitti_labels), f"{video}.txt")
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
    write_labels_with_ids(out, labels)
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
    if category != "car" or recipe.car_tracks is None:
        return made
    path = f"{scene.video}.txt"
    rows = kitti.read_labels(read_text(Store(recipe.car_tracks), path), f"{recipe.car_tracks}/{path}")
    box = rows.xyxy_N4
    xywh = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1)
    score = np.where(np.isfinite(rows.score_N), rows.score_N, 1.0)
    return [
        (float(f), float(i), *map(float, b), float(s))
        for f, i, b, s in zip(rows.frame_N, rows.id_N, xywh, score, strict=True)
    ]
