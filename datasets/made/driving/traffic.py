"""Procedural traffic on a straight road: who is on it, how they move, and when the camera sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from .scene import (
    HEIGHT,
    HZ,
    MIN_HEIGHT_PX,
    SIZES,
    WIDTH,
    Actor,
    Floats,
    Look,
    Scene,
    area,
    draw_look,
    project,
    visible_shares,
)


def procedural(video: str, n_frames: int, rng: Generator) -> Scene:
    """A scene of `n_frames` frames: our lane, a lane beside it, oncoming ones, parked cars, people on the pavements."""
    time = np.arange(n_frames) / HZ
    ego_speed = float(rng.choice([0.0, 6.0, 9.0, 12.0], p=[0.15, 0.35, 0.3, 0.2]))
    ego_F = np.full(n_frames, ego_speed) * (1 + 0.1 * np.sin(time / 3 + rng.uniform(0, 6)))
    ego_path = np.concatenate([[0.0], np.cumsum(ego_F[:-1]) / HZ])
    horizon = 60 + float(ego_path[-1])
    actors: list[Actor] = []
    for role, count in _cast(rng, horizon):
        for _ in range(count):
            actor = _enter(role, len(actors), time, ego_path, ego_F, horizon, rng)
            if actor is not None:
                actors.append(actor)
    return _hide_covered(video, n_frames, (WIDTH, HEIGHT), ego_F, actors)


def _cast(rng: Generator, horizon: float) -> list[tuple[str, int]]:
    many = horizon / 60
    return [
        ("same", int(rng.integers(2, 5))),
        ("counter", int(rng.integers(3, 6) * many)),
        ("parked", int(rng.integers(3, 7) * many)),
        ("turning", int(rng.integers(0, 3))),
        ("walking", int(rng.integers(2, 6) * many)),
        ("standing", int(rng.integers(1, 4) * many)),
        ("cycling", int(rng.integers(0, 2))),
    ]


def _enter(
    role: str, number: int, time: Floats, ego_path: Floats, ego_F: Floats, horizon: float, rng: Generator
) -> Actor | None:
    side = float(rng.choice([-1, 1]))
    kind = str(rng.choice(["Car", "Van", "Truck"], p=[0.8, 0.14, 0.06]))
    heading = np.zeros(len(time))
    x = np.zeros(len(time))
    start = rng.uniform(8, horizon)
    speed = 0.0
    if role == "same":
        x += float(rng.choice([0.0, 3.6])) + rng.normal(0, 0.2)
        speed = max(3.0, float(ego_F.mean()) + rng.normal(0.5, 3.0))
        start = rng.uniform(8, 45)
    elif role == "counter":
        x += float(rng.choice([-3.8, -7.2])) + rng.normal(0, 0.2)
        heading += np.pi
        speed = rng.uniform(5, 13)
        start = rng.uniform(15, horizon + speed * float(time[-1]))
    elif role == "parked":
        x += side * rng.uniform(8.5, 10.5) - (2.0 if side < 0 else 0.0)
        heading += float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.08)
    elif role == "turning":
        speed = rng.uniform(4, 7)
        turn = np.clip((time - rng.uniform(0.5, 3.5)) / 2.0, 0, 1) * np.pi / 2 * side
        heading += turn + float(rng.choice([0.0, np.pi]))
        start = rng.uniform(15, 35)
    elif role in ("walking", "standing"):
        kind = "Pedestrian"
        x += side * rng.uniform(6.0, 8.0)
        heading += float(rng.choice([0.0, np.pi]))
        speed = rng.uniform(1.0, 1.8) if role == "walking" else 0.0
        if role == "walking" and rng.random() < 0.25:
            heading += np.pi / 2 * side
            x += -side * rng.uniform(0, 12)
    else:
        kind = "Cyclist"
        x += float(rng.choice([2.2, 5.0, -5.5]))
        heading += np.pi * (x[0] < 0)
        speed = rng.uniform(3, 6)
    step = np.full(len(time), speed) / HZ
    x = x + np.cumsum(step * np.sin(heading))
    z = start + np.cumsum(step * np.cos(heading)) - ego_path
    size = tuple(s * rng.uniform(0.93, 1.07) for s in SIZES[kind])
    return _visible(number, kind, draw_look(rng), x, z, heading, np.full(len(time), speed), (size[0], size[1], size[2]))


def _visible(
    number: int,
    kind: str,
    look: Look,
    x: Floats,
    z: Floats,
    heading: Floats,
    speed: Floats,
    size: tuple[float, float, float],
) -> Actor | None:
    box = project(x, z, heading, size)
    clipped = np.clip(box, 0, [WIDTH - 1, HEIGHT - 1] * 2)
    share = area(clipped) / np.maximum(area(box), 1e-9)
    seen = (z > 4) & (share > 0.45) & (clipped[:, 3] - clipped[:, 1] >= MIN_HEIGHT_PX)
    if seen.sum() < 4:
        return None
    frames = np.flatnonzero(seen)
    return Actor(
        id=number,
        kind=kind,
        look=look,
        frame_F=frames,
        xyxy_F4=clipped[seen],
        depth_F=z[seen],
        lateral_F=x[seen],
        heading_F=heading[seen],
        speed_F=speed[seen],
        forward_F=(speed * np.cos(heading))[seen],
        occluded_F=np.zeros(len(frames), np.int64),
    )


def _hide_covered(video: str, n_frames: int, size: tuple[int, int], ego_F: Floats, actors: list[Actor]) -> Scene:
    """The scene without boxes that nearer ones cover by three quarters or more: KITTI does not label those."""
    share = visible_shares(actors, n_frames)
    kept: list[Actor] = []
    for actor, share_F in zip(actors, share, strict=True):
        occluded = np.select([share_F > 0.8, share_F > 0.5], [0, 1], 2)
        left = replace(actor, occluded_F=occluded).at(share_F > 0.25)
        if len(left.frame_F) >= 4:
            kept.append(replace(left, id=len(kept)))
    return Scene(video=video, n_frames=n_frames, size=size, ego_speed_F=ego_F, actors=tuple(kept))
