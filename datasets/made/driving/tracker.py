"""Simulated tracker output for a scene: jitter, gaps, late births, split identities, false tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .scene import Actor, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The errors of the simulated tracker."""

    jitter: float = 0.035  # standard deviation of each edge, share of the box's size
    miss: float = 0.03  # chance to lose a visible box in a frame
    miss_occluded: float = 0.35  # the same for a largely occluded one
    birth: int = 2  # frames until a track is confirmed
    split: float = 0.15  # chance that an object's track changes its id once
    false_tracks: float = 0.8  # a video and category, on average


Box = tuple[int, int, float, float, float, float, float]  # frame, id, x, y, w, h, score


def track(scene: Scene, category: tuple[str, ...], rng: Generator, noise: Noise) -> list[Box]:
    """Rows of a predict.txt for the objects of some KITTI types, in pixels of the scene."""
    rows: list[Box] = []
    next_id = 1
    for actor in scene.actors:
        if actor.kind not in category:
            continue
        seen = _seen(actor, rng, noise)
        if len(seen) == 0:
            continue
        switch = int(rng.integers(len(seen))) if rng.random() < noise.split else len(seen)
        for order, index in enumerate(seen):
            rows.append(_row(actor, int(index), next_id + (order >= switch), rng, noise, scene.size))
        next_id += 2
    for _ in range(int(rng.poisson(noise.false_tracks))):
        rows.extend(_false_track(scene, next_id, rng))
        next_id += 1
    return sorted(rows)


def _seen(actor: Actor, rng: Generator, noise: Noise) -> NDArray[np.int64]:
    """Indices of the object's frames in which the tracker has it."""
    miss_F = np.where(actor.occluded_F >= 2, noise.miss_occluded, noise.miss)
    seen_F = rng.random(len(actor.frame_F)) >= miss_F
    seen_F[: noise.birth] = False
    return np.flatnonzero(seen_F)


def _row(actor: Actor, index: int, number: int, rng: Generator, noise: Noise, size: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = actor.xyxy_F4[index]
    shake = rng.normal(0, noise.jitter, 4) * np.array([x2 - x1, y2 - y1] * 2)
    x1, y1, x2, y2 = np.array([x1, y1, x2, y2]) + shake
    x1, x2 = np.clip([x1, x2], 0, size[0] - 1)
    y1, y2 = np.clip([y1, y2], 0, size[1] - 1)
    score = float(np.clip(rng.normal(0.85 - 0.2 * actor.occluded_F[index], 0.08), 0.3, 1.0))
    return (
        int(actor.frame_F[index]),
        number,
        float(x1),
        float(y1),
        max(float(x2 - x1), 1.0),
        max(float(y2 - y1), 1.0),
        score,
    )


def _false_track(scene: Scene, number: int, rng: Generator) -> list[Box]:
    length = int(rng.integers(4, 12))
    if scene.n_frames <= length:
        return []
    start = int(rng.integers(scene.n_frames - length))
    w, h = rng.uniform(25, 70), rng.uniform(25, 60)
    x, y = rng.uniform(0, scene.size[0] - w), rng.uniform(150, 200)
    drift = rng.normal(0, 3)
    return [
        (
            start + i,
            number,
            float(np.clip(x + drift * i, 0, scene.size[0] - w)),
            float(y),
            float(w),
            float(h),
            0.4,
        )
        for i in range(length)
    ]
