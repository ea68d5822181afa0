"""A made driving scene before it is drawn: the camera, the objects, and where each is in every frame.

A scene comes from `traffic` (procedural) or from `trajectories` (KITTI's labels); `paint` draws it, `expressions`
describes it, `tracker` follows it.

Camera coordinates as KITTI: x right, y down, z forward, metres; frames at 10 Hz. A heading is the angle
between an object's front and the camera's view: 0 drives away from us, pi comes towards us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

HZ = 10.0
FOCAL, CENTRE_X, CENTRE_Y = 721.5, 609.6, 172.9  # KITTI's left colour camera, pixels
CAMERA_HEIGHT = 1.65  # metres above ground
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

    colour: str  # of the body, or of the clothes; one of COLOURS
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
    """A look at random. Colours have a long tail: COLOUR_SHARES."""
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


def visible_shares(actors: Sequence[Actor], n_frames: int) -> list[Floats]:
    """For each actor the share of its box, F values in 0..1, that no nearer box covers (on a 16 x 16 grid)."""
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


def area(xyxy: Floats) -> Floats:
    """Areas of boxes, ... x 4 in pixels, without a check of their sign."""
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
