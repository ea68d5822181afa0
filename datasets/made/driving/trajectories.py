"""Scenes that move as objects of real KITTI label files do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ...layouts.shared import kitti
from .scene import HZ, PEOPLE, VEHICLES, Actor, Floats, Look, Scene, draw_look


def from_labels(video: str, rows: kitti.Rows, n_frames: int, rng: Generator) -> Scene:
    """A scene that moves as real KITTI labels do. Our own speed is estimated from the objects' motion."""
    rows = rows.take(rows.id_N >= 0)
    actors = []
    for number in np.unique(rows.id_N):
        mine = rows.take(rows.id_N == number)
        mine = mine.take(np.argsort(mine.frame_N, kind="stable"))
        actors.append(_labelled_actor(int(number), mine, draw_look(rng)))
    ego_F = estimate_ego_speed(actors, n_frames)
    over_ground = []
    for actor in actors:
        forward = actor.forward_F + ego_F[actor.frame_F]
        sideways = _rate(actor.lateral_F, actor.frame_F)
        still = np.abs(forward) < 0.12 * ego_F[actor.frame_F] + 0.5  # the estimate is no better than that
        forward = np.where(still, 0.0, forward)
        speed = np.where(still & (np.abs(sideways) < 1.0), 0.0, np.hypot(forward, sideways))
        over_ground.append(replace(actor, speed_F=speed, forward_F=forward))
    return Scene(
        video=video,
        n_frames=n_frames,
        size=kitti.image_size(video),
        ego_speed_F=ego_F,
        actors=tuple(over_ground),
    )


def _labelled_actor(number: int, rows: kitti.Rows, look: Look) -> Actor:
    return Actor(
        id=number,
        kind=str(rows.category_N[0]),
        look=look,
        frame_F=rows.frame_N,
        xyxy_F4=rows.xyxy_N4,
        depth_F=rows.location_N3[:, 2],
        lateral_F=rows.location_N3[:, 0],
        heading_F=rows.rotation_y_N + np.pi / 2,
        speed_F=np.zeros(len(rows)),
        forward_F=_rate(rows.location_N3[:, 2], rows.frame_N),  # relative to us until our speed is known
        occluded_F=np.clip(rows.occluded_N, 0, 2),
    )


def _rate(value_F: Floats, frame_F: NDArray[np.int64]) -> Floats:
    """Change a second, from differences over five frames."""
    if len(value_F) < 2:
        return np.zeros(len(value_F))
    ahead = np.minimum(np.arange(len(value_F)) + 2, len(value_F) - 1)
    behind = np.maximum(np.arange(len(value_F)) - 2, 0)
    return (value_F[ahead] - value_F[behind]) / (frame_F[ahead] - frame_F[behind]) * HZ


def estimate_ego_speed(actors: Sequence[Actor], n_frames: int) -> Floats:
    """Our speed in each frame, m/s, from the relative motion `forward_F` of objects along our view.

    A vehicle that faces away from us comes nearer no faster than we drive, one that faces us no slower,
    and people on foot about as fast as we drive. Where nothing is seen the speed stays as before.
    """
    seen: dict[str, list[list[float]]] = {k: [[] for _ in range(n_frames)] for k in ("away", "towards", "people")}
    for actor in actors:
        for frame, rate, heading in zip(actor.frame_F, actor.forward_F, actor.heading_F, strict=True):
            if actor.kind in PEOPLE:
                seen["people"][frame].append(-rate)
            elif actor.kind in VEHICLES and abs(np.cos(heading)) > 0.7:
                seen["away" if np.cos(heading) > 0 else "towards"][frame].append(-rate)
    speed, last = np.zeros(n_frames), 0.0
    for frame in range(n_frames):
        near = range(max(0, frame - 5), min(n_frames, frame + 6))
        away, towards, people = ([v for f in near for v in seen[kind][f]] for kind in ("away", "towards", "people"))
        if away:
            last = float(np.quantile(away, 0.9))
        if towards:
            bound = float(np.quantile(towards, 0.1))
            last = min(last, bound) if away else bound
        if len(people) >= 5:
            walk = 1.5
            last = float(np.clip(last, np.median(people) - walk, np.median(people) + walk))
        speed[frame] = last = max(last, 0.0)
    smooth = np.pad(speed, 4, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(smooth, 9), axis=1)
