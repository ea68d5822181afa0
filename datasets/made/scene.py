"""What moves in a made driving scene: looks of objects, and where they are in each frame.

Camera coordinates as KITTI: x right, y down, z forward, metres; frames at 10 Hz. A heading is the angle
between an object's front and the camera's view: 0 drives away from us, pi comes towards us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..layouts import kitti

HZ = 10.0
FOCAL, CENTRE_X, CENTRE_Y, CAMERA_HEIGHT = (
    721.5,
    609.6,
    172.9,
    1.65,
)  # KITTI's left colour camera, pixels and m
WIDTH, HEIGHT = 1242, 375
MIN_HEIGHT_PX = 22.0  # smaller boxes are not labelled, as in KITTI
VEHICLES = ("Car", "Van", "Truck", "Tram", "Misc")
PEOPLE = ("Pedestrian", "Person")
COLOURS = ("black", "white", "silver", "red", "blue", "yellow")
COLOUR_SHARES = (0.28, 0.22, 0.22, 0.15, 0.09, 0.04)
SIZES = {  # height, width, length in metres
    "Car": (1.5, 1.65, 4.0),
    "Van": (2.1, 1.9, 4.8),
    "Truck": (3.1, 2.5, 8.5),
    "Pedestrian": (1.75, 0.65, 0.6),
    "Cyclist": (1.75, 0.65, 1.75),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an object looks like, drawn once for its life."""

    colour: str  # of the body, or of the clothes
    trousers: str
    female: bool
    bag: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An object through a video; F frames, ascending, not always consecutive."""

    id: int
    kind: str  # KITTI type
    look: Look
    frame_F: NDArray[np.int64]
    xyxy_F4: Floats  # pixels of a WIDTH x HEIGHT image
    depth_F: Floats  # metres
    lateral_F: Floats  # metres, right of the camera
    heading_F: Floats  # radians, 0 away from us
    speed_F: Floats  # metres a second over ground
    forward_F: Floats  # its part along our view, metres a second over ground
    occluded_F: NDArray[np.int64]  # 0 visible, 1 partly, 2 largely

    def at(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Actor:
        """The same object in some of its frames."""
        names = [n for n in self.__dataclass_fields__ if "_F" in n]
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    @property
    def turning(self) -> bool:
        """Whether its heading changes by more than 30 degrees in its life while it moves."""
        if len(self.frame_F) < 8 or self.speed_F.mean() < 1.0:
            return False
        heading = np.unwrap(self.heading_F)
        return bool(abs(np.median(heading[-4:]) - np.median(heading[:4])) > np.deg2rad(30))

    @property
    def moving(self) -> bool:
        """Whether it moves for most of its life."""
        limit = 0.4 if self.kind in PEOPLE else 1.5
        return bool(np.median(self.speed_F) > limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A video before it is drawn."""

    video: str
    n_frames: int
    size: tuple[int, int]  # width, height of its images before they are resized
    ego_speed_F: Floats  # metres a second
    actors: tuple[Actor, ...]


def draw_look(rng: Generator) -> Look:
    """A look at random; colours have a long tail."""
    colour = str(rng.choice(COLOURS, p=COLOUR_SHARES))
    trousers = str(rng.choice(("black", "blue", "silver", "white"), p=(0.45, 0.3, 0.15, 0.1)))
    return Look(colour=colour, trousers=trousers, female=bool(rng.random() < 0.5), bag=bool(rng.random() < 0.3))


def project(x: Floats, z: Floats, heading: Floats, size: tuple[float, float, float]) -> Floats:
    """Image boxes of upright cuboids on the ground, F x 4 pixels, not clipped."""
    height, width, length = size
    along = np.stack([np.sin(heading), np.cos(heading)], -1) * length / 2
    across = np.stack([np.cos(heading), -np.sin(heading)], -1) * width / 2
    corner_F42 = np.stack([along + across, along - across, -along + across, -along - across], 1)
    x_F4 = x[:, None] + corner_F42[..., 0]
    z_F4 = np.maximum(z[:, None] + corner_F42[..., 1], 0.5)
    u_F4 = CENTRE_X + FOCAL * x_F4 / z_F4
    bottom = (CENTRE_Y + FOCAL * CAMERA_HEIGHT / z_F4).max(1)
    top = (CENTRE_Y + FOCAL * (CAMERA_HEIGHT - height) / z_F4).min(1)
    return np.stack([u_F4.min(1), top, u_F4.max(1), bottom], 1)


def procedural(video: str, n_frames: int, rng: Generator) -> Scene:
    """A straight road: our lane, a lane beside it, oncoming ones, parked cars, people on the pavements."""
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
    return _finish(video, n_frames, (WIDTH, HEIGHT), ego_F, actors)


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
    share = _area(clipped) / np.maximum(_area(box), 1e-9)
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


def _finish(video: str, n_frames: int, size: tuple[int, int], ego_F: Floats, actors: list[Actor]) -> Scene:
    """Hides what is behind something else: a box mostly covered by nearer ones is not labelled."""
    share = visible_shares(actors, n_frames)
    kept: list[Actor] = []
    for actor, share_F in zip(actors, share, strict=True):
        occluded = np.select([share_F > 0.8, share_F > 0.5], [0, 1], 2)
        left = replace(actor, occluded_F=occluded).at(share_F > 0.25)
        if len(left.frame_F) >= 4:
            kept.append(replace(left, id=len(kept)))
    return Scene(video=video, n_frames=n_frames, size=size, ego_speed_F=ego_F, actors=tuple(kept))


def visible_shares(actors: Sequence[Actor], n_frames: int) -> list[Floats]:
    """For each actor the share of its box, frame by frame, that no nearer box covers (on a 16 x 16 grid)."""
    share = [np.ones(len(a.frame_F)) for a in actors]
    present: list[list[tuple[float, int, int]]] = [[] for _ in range(n_frames)]
    for number, actor in enumerate(actors):
        for index, frame in enumerate(actor.frame_F):
            present[frame].append((float(actor.depth_F[index]), number, index))
    grid = (np.arange(16) + 0.5) / 16
    for here in present:
        here.sort()
        for rank, (_, number, index) in enumerate(here):
            x1, y1, x2, y2 = actors[number].xyxy_F4[index]
            x, y = x1 + grid * (x2 - x1), y1 + grid * (y2 - y1)
            covered = np.zeros((16, 16), bool)
            for _, other, at in here[:rank]:
                a1, b1, a2, b2 = actors[other].xyxy_F4[at]
                covered |= ((y > b1) & (y < b2))[:, None] & ((x > a1) & (x < a2))[None]
            share[number][index] = 1 - covered.mean()
    return share


def _area(xyxy: Floats) -> Floats:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
