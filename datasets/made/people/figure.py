"""A canvas of layers and the proportions of a person on it.

Heights are shares of the body's from the top of the head (0) to the soles (1); widths are of the same unit.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .person import BUILDS, HEIGHTS, Clothes, Person, Shot

Layers = NDArray[np.uint8]  # height x width, at twice the picture's size
Point = tuple[float, float]

CHIN, SHOULDER, HIP, KNEE, ANKLE = 0.165, 0.205, 0.52, 0.75, 0.955


class Layer(IntEnum):
    """What a pixel shows."""

    WALL = 0
    FLOOR = 1
    THING = 2
    OTHER_THING = 3
    SHADOW = 4
    SKIN = 5
    SKIN_FAR = 6
    HAIR = 7
    HAIR_DARK = 8
    TOP = 9
    TOP_FAR = 10
    TOP_PATTERN = 11
    TRIM = 12
    UNDER = 13
    BOTTOM = 14
    BOTTOM_FAR = 15
    SHOE = 16
    BAG = 17
    STRAP = 18
    FEATURE = 19


class Figure:
    """A person in clothes in a shot, in pixels of a canvas of `height` x `width` (twice the picture's size)."""

    def __init__(self, person: Person, clothes: Clothes, shot: Shot, height: int, width: int) -> None:
        self.person, self.clothes, self.shot = person, clothes, shot
        self.size = (width, height)
        self.unit = HEIGHTS[person.height] * person.stature * shot.scale * height
        self.ground = height * 0.965
        self.middle = shot.x * width
        self.front, self.turn = float(np.cos(shot.yaw)), float(np.sin(shot.yaw))
        wide = BUILDS[person.build] * person.width
        narrow = 0.72 + 0.28 * abs(self.front)
        man = person.gender == "man"
        self.shoulder = (0.118 if man else 0.102) * (0.55 + 0.45 * wide) * narrow
        self.waist = (0.094 if man else 0.078) * wide * narrow
        self.hip = (0.092 if man else 0.104) * (0.3 + 0.7 * wide) * narrow
        self.leg = 0.042 * (0.35 + 0.65 * wide)
        self.arm = 0.031 * (0.45 + 0.55 * wide)
        gait = person.gait
        self.stride = {"upright": 0.03, "striding": 0.15, "stooped": 0.06, "swinging": 0.07}[gait]
        self.stride *= shot.phase * (0.75 + 0.25 * abs(self.turn))
        self.reach = {"upright": 0.015, "striding": 0.05, "stooped": 0.03, "swinging": 0.15}[gait] * shot.swing
        self.lean = 0.06 if gait == "stooped" else 0.0
        self.toward = 1.0 if self.turn >= 0 else -1.0  # where the person goes, on the picture
        self.canvas = Image.new("L", self.size, int(Layer.WALL))
        self.draw = ImageDraw.Draw(self.canvas)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the body is on the canvas; a stooping body bends forward and down above the hip."""
        bent = max(0.0, HIP - y) / HIP
        px = self.middle + (x + self.lean * bent * self.toward * 1.3) * self.unit
        return px, self.ground - (1 - y - self.lean * bent) * self.unit

    def polygon(self, points: list[Point], layer: Layer) -> None:
        """Fills a polygon given in the body's unit."""
        self.draw.polygon([self.at(x, y) for x, y in points], fill=int(layer))

    def ellipse(self, x: float, y: float, rx: float, ry: float, layer: Layer) -> None:
        """Fills an ellipse given by its middle and radii in the body's unit."""
        px, py = self.at(x, y)
        rx, ry = rx * self.unit, ry * self.unit
        self.draw.ellipse([px - rx, py - ry, px + rx, py + ry], fill=int(layer))

    def limb(self, points: list[Point], radius: float, layer: Layer) -> None:
        """A bent tube through points."""
        on_canvas = [self.at(x, y) for x, y in points]
        thick = max(1, round(2 * radius * self.unit))
        self.draw.line(on_canvas, fill=int(layer), width=thick, joint="curve")
        for px, py in (on_canvas[0], on_canvas[-1]):
            half = thick / 2
            self.draw.ellipse([px - half, py - half, px + half, py + half], fill=int(layer))
