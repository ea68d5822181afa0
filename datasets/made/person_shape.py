"""Draws a person in a place as a map of layers: which pixel shows what. Every modality is coloured from it.

Heights are shares of the body's from the top of the head (0) to the soles (1); widths are of the same unit.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .person import BUILDS, FACES, HEIGHTS, Clothes, Person, Shot

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

    def layers(self) -> Layers:
        """The whole picture as a map of layers."""
        self._place()
        behind = self.front < -0.2
        if self.clothes.bag == "backpack" and not behind:
            self._backpack()
        self._hair_behind()
        for far in (True, False):
            self._leg(far)
        self._arm(far=True)
        self._bottom()
        self._torso()
        self._head(behind)
        self._arm(far=False)
        if self.clothes.bag == "backpack" and behind:
            self._backpack()
        self._bag()
        return self._patterned(np.array(self.canvas))

    def _place(self) -> None:
        width, height = self.size
        horizon = self.shot.camera.horizon * height
        self.draw.rectangle([0, horizon, width, height], fill=int(Layer.FLOOR))
        for x, layer, size in zip(self.shot.things_x, (Layer.THING, Layer.OTHER_THING), (0.16, 0.1), strict=True):
            left = (x - size / 2) * width
            self.draw.rectangle([left, horizon * 0.35, left + size * width, horizon * 1.06], fill=int(layer))
        px, py, r = self.middle, self.ground, self.unit
        self.draw.ellipse([px - 0.17 * r, py - 0.025 * r, px + 0.17 * r, py + 0.02 * r], fill=int(Layer.SHADOW))

    def _leg(self, far: bool) -> None:
        sign = -1.0 if far else 1.0
        hip = (sign * self.hip * 0.5, HIP - 0.02)
        foot_x = sign * (self.hip * 0.42 + abs(self.stride) * 0.35) + sign * self.stride * 0.65 * self.toward
        knee = ((hip[0] + foot_x) / 2 + 0.015 * self.toward, KNEE)
        foot = (foot_x, ANKLE)
        covered = self.clothes.bottom in ("trousers", "jeans")
        skin, cloth = (Layer.SKIN_FAR, Layer.BOTTOM_FAR) if far else (Layer.SKIN, Layer.BOTTOM)
        self.limb([hip, knee, foot], self.leg if covered else self.leg * 0.82, cloth if covered else skin)
        if self.clothes.bottom == "shorts":
            self.limb([hip, (knee[0] * 0.75 + hip[0] * 0.25, KNEE - 0.06)], self.leg * 1.15, cloth)
        toe = 0.03 * self.turn
        self.ellipse(foot_x + toe, 0.98, 0.036 + 0.012 * abs(self.turn), 0.02, Layer.SHOE)

    def _bottom(self) -> None:
        if self.clothes.bottom == "skirt":
            flare = self.hip * 1.5
            self.polygon(
                [(-self.waist, 0.42), (self.waist, 0.42), (flare, KNEE - 0.02), (-flare, KNEE - 0.02)], Layer.BOTTOM
            )
        else:
            self.polygon([(-self.waist, 0.42), (self.waist, 0.42), (self.hip, 0.56), (-self.hip, 0.56)], Layer.BOTTOM)

    def _torso(self) -> None:
        low = {"coat": 0.72, "jacket": 0.53, "hoodie": 0.54}.get(self.clothes.top, 0.5)
        flare = self.hip * (1.18 if self.clothes.top == "coat" else 1.02)
        slope = SHOULDER + 0.025
        outline = [
            (-0.03, SHOULDER - 0.02), (0.03, SHOULDER - 0.02), (self.shoulder, slope), (self.waist * 1.05, 0.4),
            (flare, low), (-flare, low), (-self.waist * 1.05, 0.4), (-self.shoulder, slope),
        ]  # fmt: skip
        self.polygon(outline, Layer.TOP)
        seen = max(self.front, 0.0)
        off = self.turn * self.waist * 0.8
        top = self.clothes.top
        if seen > 0.2 and top in ("jacket", "coat"):
            gap = 0.03 * seen
            self.polygon(
                [(off - gap, SHOULDER), (off + gap, SHOULDER), (off + gap * 0.6, low), (off, low)], Layer.UNDER
            )
        elif seen > 0.2 and top == "shirt":
            self.polygon([(off - 0.006, SHOULDER), (off + 0.006, SHOULDER), (off + 0.006, low), (off, low)], Layer.TRIM)
            self.polygon([(off - 0.045, SHOULDER - 0.02), (off + 0.045, SHOULDER - 0.02), (off, 0.245)], Layer.TRIM)
        elif top == "hoodie":
            self.ellipse(-self.turn * 0.03, SHOULDER - 0.005, 0.075, 0.032, Layer.TOP_FAR)
            if seen > 0.2:
                self.polygon(
                    [(off - 0.05, 0.42), (off + 0.05, 0.42), (off + 0.06, 0.48), (off - 0.06, 0.48)], Layer.TRIM
                )
        elif top == "sweater":
            self.polygon([(-flare, low - 0.02), (flare, low - 0.02), (flare, low), (-flare, low)], Layer.TRIM)

    def _arm(self, far: bool) -> None:
        sign = -1.0 if far else 1.0
        shoulder = (sign * (self.shoulder - self.arm * 0.7), SHOULDER + 0.04)
        drift = sign * self.reach * 1.1 + 0.3 * self.reach * self.shot.phase * self.toward
        elbow = (shoulder[0] + sign * 0.018 + drift * 0.5, 0.37)
        hand = (shoulder[0] + sign * 0.016 + drift, 0.515 - abs(drift) * 0.35)
        sleeve, skin = (Layer.TOP_FAR, Layer.SKIN_FAR) if far else (Layer.TOP, Layer.SKIN)
        self.limb([shoulder, elbow, hand], self.arm * 0.8, skin)
        if self.clothes.long_sleeves:
            wrist = (elbow[0] * 0.12 + hand[0] * 0.88, elbow[1] * 0.12 + hand[1] * 0.88)
            self.limb([shoulder, elbow, wrist], self.arm, sleeve)
        else:
            half = ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2)
            self.limb([shoulder, half], self.arm * 1.15, sleeve)

    @property
    def _face(self) -> tuple[float, float]:
        return 0.058 * FACES[self.person.face], 0.084 if self.person.face != "long" else 0.092

    def _hair_behind(self) -> None:
        rx, ry = self._face
        style = self.person.hair
        back = -0.03 * self.turn
        if style == "long":
            self.polygon(
                [(back - rx * 1.25, 0.06), (back + rx * 1.25, 0.06), (back + rx * 1.4, 0.31), (back - rx * 1.4, 0.31)],
                Layer.HAIR_DARK,
            )
        elif style == "bob":
            self.polygon(
                [
                    (back - rx * 1.3, 0.06),
                    (back + rx * 1.3, 0.06),
                    (back + rx * 1.45, 0.175),
                    (back - rx * 1.45, 0.175),
                ],
                Layer.HAIR_DARK,
            )
        elif style == "curly":
            self.ellipse(back * 0.7, 0.07, rx * 1.75, ry * 1.22, Layer.HAIR_DARK)
        elif style == "bun":
            self.ellipse(back * 1.6, -0.015, 0.036, 0.032, Layer.HAIR_DARK)

    def _head(self, behind: bool) -> None:
        rx, ry = self._face
        self.polygon([(-0.03, 0.13), (0.03, 0.13), (0.032, SHOULDER), (-0.032, SHOULDER)], Layer.SKIN_FAR)
        if self.person.face == "square":
            cut = rx * 0.55
            self.polygon(
                [
                    (-rx, 0.03),
                    (-cut, 0.005),
                    (cut, 0.005),
                    (rx, 0.03),
                    (rx, 0.13),
                    (cut, CHIN),
                    (-cut, CHIN),
                    (-rx, 0.13),
                ],
                Layer.SKIN,
            )
        else:
            self.ellipse(0, 0.083, rx, ry, Layer.SKIN)
        if behind:
            self._hair_from_behind(rx, ry)
            return
        off = self.turn * rx * 0.62
        for sign in (-1, 1):
            x = off + sign * 0.024 * max(0.5, self.front)
            if abs(x) < rx:
                self.ellipse(x, 0.085, 0.0075, 0.008, Layer.FEATURE)
        if self.person.beard == "beard":
            self.polygon(
                [(off - rx * 0.75, 0.112), (off + rx * 0.75, 0.112), (off + rx * 0.5, CHIN + 0.012),
                 (off - rx * 0.5, CHIN + 0.012)], Layer.HAIR,
            )  # fmt: skip
        elif self.person.beard == "moustache":
            self.ellipse(off, 0.115, 0.027, 0.009, Layer.HAIR)
        self.ellipse(off, 0.134, 0.014, 0.005, Layer.FEATURE)
        self._hair_in_front(rx, ry)

    def _hair_in_front(self, rx: float, ry: float) -> None:
        if self.person.hair == "bald":
            return
        px, py = self.at(-0.012 * self.turn, 0.075)
        w, h = rx * 1.12 * self.unit, (ry + 0.006) * self.unit
        self.draw.pieslice([px - w, py - h, px + w, py + h], 188, 352, fill=int(Layer.HAIR))
        if self.person.hair in ("long", "bob"):
            for sign in (-1, 1):
                low = 0.29 if self.person.hair == "long" else 0.17
                x = sign * rx * 1.08 - 0.02 * self.turn
                self.polygon([(x - 0.012, 0.05), (x + 0.012, 0.05), (x + 0.016, low), (x - 0.016, low)], Layer.HAIR)
        if self.person.hair == "curly":
            for x in (-0.05, -0.02, 0.02, 0.05):
                self.ellipse(x - 0.01 * self.turn, 0.012, 0.028, 0.026, Layer.HAIR)
        if self.person.hair == "ponytail":
            x = -(rx + 0.012) * self.toward
            self.limb([(x, 0.05), (x * 1.5, 0.11), (x * 1.45, 0.22)], 0.017, Layer.HAIR_DARK)

    def _hair_from_behind(self, rx: float, ry: float) -> None:
        style = self.person.hair
        if style == "bald":
            return
        self.ellipse(0, 0.07, rx * 1.1, ry * (0.92 if style == "cropped" else 1.05), Layer.HAIR)
        low = {"long": 0.32, "bob": 0.18}.get(style)
        if low is not None:
            self.polygon([(-rx * 1.2, 0.06), (rx * 1.2, 0.06), (rx * 1.35, low), (-rx * 1.35, low)], Layer.HAIR)
        elif style == "ponytail":
            self.limb([(0, 0.05), (0.012, 0.15), (0.006, 0.25)], 0.02, Layer.HAIR_DARK)
        elif style == "bun":
            self.ellipse(0, 0.03, 0.036, 0.032, Layer.HAIR_DARK)
        elif style == "curly":
            self.ellipse(0, 0.07, rx * 1.75, ry * 1.22, Layer.HAIR)

    def _backpack(self) -> None:
        if self.front < -0.2:
            self.polygon([(-0.085, 0.24), (0.085, 0.24), (0.095, 0.45), (-0.095, 0.45)], Layer.BAG)
            self.polygon([(-0.06, 0.36), (0.06, 0.36), (0.06, 0.42), (-0.06, 0.42)], Layer.STRAP)
        else:
            x = -self.toward * (self.shoulder + 0.01) * (0.35 + 0.65 * abs(self.turn))
            self.ellipse(x, 0.33, 0.085, 0.12, Layer.BAG)

    def _bag(self) -> None:
        bag = self.clothes.bag
        if bag == "backpack" and self.front >= -0.2:
            for sign in (-1, 1):
                x = sign * self.shoulder * 0.55 + self.turn * 0.02
                self.polygon([(x - 0.011, 0.205), (x + 0.011, 0.205), (x + 0.011, 0.36), (x - 0.011, 0.36)], Layer.BAG)
        elif bag == "shoulder bag":
            x = self.hip + 0.035
            start, end = self.at(-self.shoulder * 0.6, SHOULDER + 0.01), self.at(x, 0.47)
            self.draw.line([start, end], fill=int(Layer.STRAP), width=max(1, round(0.014 * self.unit)))
            self.polygon([(x - 0.06, 0.45), (x + 0.055, 0.45), (x + 0.055, 0.56), (x - 0.06, 0.56)], Layer.BAG)
        elif bag == "handbag":
            x = -(self.shoulder + 0.03 + self.reach * 0.9)
            self.polygon([(x - 0.05, 0.57), (x + 0.05, 0.57), (x + 0.06, 0.66), (x - 0.06, 0.66)], Layer.BAG)
            self.polygon([(x - 0.02, 0.52), (x + 0.02, 0.52), (x + 0.03, 0.57), (x - 0.03, 0.57)], Layer.STRAP)

    def _patterned(self, layers: Layers) -> Layers:
        pattern = self.clothes.pattern
        if pattern == "plain":
            return layers
        step = self.unit * 0.042
        y, x = np.ogrid[: layers.shape[0], : layers.shape[1]]
        share = {"striped": 0.36, "checked": 0.24, "dotted": 0.45}[pattern]
        across, down = ((x - self.middle) % step) < step * share, ((y - self.ground) % step) < step * share
        if pattern == "striped":
            marks = np.broadcast_to(down, layers.shape)
        else:
            marks = across | down if pattern == "checked" else across & down
        layers[marks & ((layers == Layer.TOP) | (layers == Layer.TOP_FAR))] = Layer.TOP_PATTERN
        return layers
