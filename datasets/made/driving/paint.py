"""Draws a frame of a made driving scene: sky, ground, road, what moves on it, light and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .scene import CAMERA_HEIGHT, CENTRE_X, CENTRE_Y, FOCAL, HZ, PEOPLE, Actor, Look, Scene

RGB = tuple[int, int, int]
PAINT: dict[str, RGB] = {
    "black": (28, 28, 32),
    "white": (236, 236, 232),
    "silver": (158, 163, 170),
    "red": (186, 30, 36),
    "blue": (38, 70, 160),
    "yellow": (214, 180, 40),
}
GLASS, TYRE, SKIN, TAIL, HEAD = (52, 66, 82), (18, 18, 20), (212, 170, 140), (230, 24, 24), (250, 246, 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Light and ground of a video."""

    sky_top: RGB
    sky_low: RGB
    ground: RGB
    road: RGB
    gain: float
    noise: float  # standard deviation in grey levels
    houses_seed: int


def draw_weather(rng: Generator) -> Weather:
    """Light at random."""
    grey = int(rng.integers(70, 100))
    return Weather(
        sky_top=(int(rng.integers(90, 150)), int(rng.integers(140, 180)), int(rng.integers(190, 230))),
        sky_low=(205, 215, int(rng.integers(215, 235))),
        ground=(int(rng.integers(70, 110)), int(rng.integers(100, 130)), int(rng.integers(60, 85))),
        road=(grey, grey, grey + 4),
        gain=float(rng.uniform(0.8, 1.15)),
        noise=float(rng.uniform(2.0, 4.0)),
        houses_seed=int(rng.integers(1 << 30)),
    )


class Painter:
    """Draws the frames of one scene at `size` (width, height), at twice that size and then reduced."""

    def __init__(self, scene: Scene, weather: Weather, size: tuple[int, int]) -> None:
        self.scene, self.weather, self.size = scene, weather, size
        self.scale = 2 * size[0] / scene.size[0]
        self.width, self.height = 2 * size[0], 2 * size[1]
        self.travelled_F = np.concatenate([[0.0], np.cumsum(scene.ego_speed_F[:-1]) / HZ])
        self._sky = self._draw_sky()
        self._present: list[list[tuple[float, Actor, int]]] = [[] for _ in range(scene.n_frames)]
        for actor in scene.actors:
            for index, frame in enumerate(actor.frame_F):
                self._present[frame].append((-float(actor.depth_F[index]), actor, index))

    def frame(self, number: int, rng: Generator) -> NDArray[np.uint8]:
        """Frame `number` as height x width x 3 bytes."""
        image = self._sky.copy()
        draw = ImageDraw.Draw(image)
        self._roadside(draw, float(self.travelled_F[number]))
        for _, actor, index in sorted(self._present[number], key=lambda item: item[0]):
            box = (actor.xyxy_F4[index] * self.scale).tolist()
            if box[2] - box[0] < 2 or box[3] - box[1] < 2:
                continue
            sight = float(np.arctan2(actor.lateral_F[index], max(actor.depth_F[index], 1.0)))
            view = float(actor.heading_F[index]) - sight
            moving = bool(actor.speed_F[index] > 0.4)
            paint_object(draw, box, actor.kind, actor.look, view, number if moving else None)
        small = np.asarray(image.resize(self.size, Image.Resampling.BOX), np.float32)
        noisy = small * self.weather.gain + rng.normal(0, self.weather.noise, small.shape).astype(np.float32)
        return np.clip(noisy, 0, 255).astype(np.uint8)

    def _draw_sky(self) -> Image.Image:
        w = self.weather
        canvas = np.zeros((self.height, self.width, 3), np.float32)
        horizon = int(CENTRE_Y * self.scale)
        fade = np.linspace(0, 1, horizon)[:, None, None]
        canvas[:horizon] = np.array(w.sky_top) * (1 - fade) + np.array(w.sky_low) * fade
        depth = np.linspace(0.75, 1.05, self.height - horizon)[:, None, None]
        canvas[horizon:] = np.array(w.ground) * depth
        image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        far, near = 90.0, 3.0
        draw.polygon([self._at(x, 0, z) for x, z in ((-9, far), (5.6, far), (5.6, near), (-9, near))], fill=w.road)
        for x1, x2 in ((-11.5, -9.2), (5.8, 8.4)):
            draw.polygon(
                [self._at(x, 0, z) for x, z in ((x1, far), (x2, far), (x2, near), (x1, near))],
                fill=(150, 146, 140),
            )
        return image

    def _at(self, x: float, height: float, z: float) -> tuple[float, float]:
        """Pixel of a point in the world, `height` metres above ground."""
        return (
            (CENTRE_X + FOCAL * x / z) * self.scale,
            (CENTRE_Y + FOCAL * (CAMERA_HEIGHT - height) / z) * self.scale,
        )

    def _roadside(self, draw: ImageDraw.ImageDraw, travelled: float) -> None:
        for side in (-1.0, 1.0):
            block = int(travelled // 12)
            for number in range(block + 8, block, -1):
                house = np.random.default_rng((self.weather.houses_seed, number, int(side) + 1))
                z = max(number * 12 - travelled, 4.0)
                x, tall, wide = side * house.uniform(13, 18), house.uniform(2.5, 9.0), house.uniform(4, 10)
                shade = house.uniform(0.55, 1.0)
                wall = tuple(
                    int(c * shade) for c in ((176, 160, 140), (96, 128, 84), (170, 170, 176))[int(house.integers(3))]
                )
                left, top = self._at(x if side > 0 else x - wide, tall, z)
                right, bottom = self._at(x + wide if side > 0 else x, 0, z)
                draw.rectangle([left, top, right, bottom], fill=wall)
        for x in (-1.8, 1.9, -5.5):
            first = 6.0 - travelled % 6.0
            for z in np.arange(first + 2, 60, 6.0):
                a, b = self._at(x - 0.08, 0, z), self._at(x + 0.08, 0, z + 2.0)
                draw.polygon([a, self._at(x + 0.08, 0, z), b, self._at(x - 0.08, 0, z + 2.0)], fill=(215, 215, 210))


def paint_object(
    draw: ImageDraw.ImageDraw, box: list[float], kind: str, look: Look, view: float, step: int | None
) -> None:
    """Fills an image box with an object seen at the angle `view` (0 its back); `step` moves its legs."""
    x1, _, x2, y2 = box
    draw.ellipse([x1 - 1, y2 - (y2 - box[1]) * 0.08, x2 + 1, y2 + 2], fill=(48, 48, 50))
    if kind in PEOPLE:
        _person(draw, box, look, step)
    elif kind == "Cyclist":
        _cyclist(draw, box, look, view)
    else:
        _vehicle(draw, box, kind, look, view)


def _shade(colour: RGB, factor: float) -> RGB:
    return (
        int(min(255, colour[0] * factor)),
        int(min(255, colour[1] * factor)),
        int(min(255, colour[2] * factor)),
    )


def _vehicle(draw: ImageDraw.ImageDraw, box: list[float], kind: str, look: Look, view: float) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    body = PAINT[look.colour]
    boxy = kind != "Car"
    width_m, length_m = (2.2, 6.0) if boxy else (1.65, 4.0)
    end = width_m * abs(np.cos(view))
    share = end / (end + length_m * abs(np.sin(view)))  # of the box that the front or the back fills
    end_left = np.sin(view) * np.cos(view) > 0  # which side of the box that is
    cut = x1 + w * share if end_left else x2 - w * share
    end_x = (x1, cut) if end_left else (cut, x2)
    side_x = (cut, x2) if end_left else (x1, cut)
    roof = y1 + h * (0.02 if boxy else 0.0)
    belt, floor = y1 + h * (0.38 if boxy else 0.42), y1 + h * 0.88
    slope = 0.0 if boxy else 0.18

    def rect(xs: tuple[float, float], ys: tuple[float, float], colour: RGB) -> None:
        if xs[1] - xs[0] >= 1 and ys[1] - ys[0] >= 1:
            draw.rectangle([xs[0], ys[0], xs[1], ys[1]], fill=colour)

    cabin_in = slope * w
    draw.polygon([(x1 + cabin_in, roof), (x2 - cabin_in, roof), (x2, belt), (x1, belt)], fill=_shade(body, 0.9))
    rect((x1, x2), (belt, floor), body)
    rect(side_x, (belt, floor), _shade(body, 0.78))
    glass_top, glass_low = roof + h * 0.07, belt - h * 0.02
    for xs, inset in ((end_x, 0.14), (side_x, 0.1)):
        span = xs[1] - xs[0]
        if span > 3:
            rect(
                (xs[0] + max(span * inset, cabin_in * 0.6), xs[1] - max(span * inset, cabin_in * 0.6)),
                (glass_top, glass_low),
                GLASS,
            )
    lamp_h, lamp_w = h * 0.1, (end_x[1] - end_x[0]) * 0.2
    lamp_y = belt + h * 0.1
    lamp = TAIL if np.cos(view) > 0 else HEAD
    if lamp_w >= 1:
        rect((end_x[0], end_x[0] + lamp_w), (lamp_y, lamp_y + lamp_h), lamp)
        rect((end_x[1] - lamp_w, end_x[1]), (lamp_y, lamp_y + lamp_h), lamp)
        middle = (end_x[0] + lamp_w * 1.6, end_x[1] - lamp_w * 1.6)
        rect(
            middle,
            (lamp_y + lamp_h, lamp_y + lamp_h * 2),
            (225, 225, 215) if np.cos(view) > 0 else (40, 40, 44),
        )
    radius = h * 0.13
    for x in (x1 + w * 0.16, x2 - w * 0.16):
        draw.ellipse([x - radius, y2 - 2 * radius, x + radius, y2], fill=TYRE)


def _person(draw: ImageDraw.ImageDraw, box: list[float], look: Look, step: int | None) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    middle = (x1 + x2) / 2
    hip, neck = y1 + h * 0.55, y1 + h * 0.16
    top, trousers = PAINT[look.colour], PAINT[look.trousers]
    spread = 0.06 * w if step is None else w * 0.32 * abs(np.sin(step * 0.9))
    leg = max(w * 0.13, 1.0)
    for sign in (-1, 1):
        foot = middle + sign * (spread + leg * 0.4)
        draw.polygon(
            [(middle - leg, hip), (middle + leg, hip), (foot + leg, y2), (foot - leg, y2)],
            fill=_shade(trousers, 0.9 + 0.1 * sign),
        )
    if look.female:
        draw.polygon(
            [
                (middle - w * 0.2, hip - h * 0.08),
                (middle + w * 0.2, hip - h * 0.08),
                (middle + w * 0.36, y1 + h * 0.76),
                (middle - w * 0.36, y1 + h * 0.76),
            ],
            fill=_shade(top, 0.85),
        )
    draw.rectangle([middle - w * 0.28, neck, middle + w * 0.28, hip], fill=top)
    head = h * 0.085
    if look.female:
        draw.rectangle([middle - head * 1.2, y1 + head * 0.3, middle + head * 1.2, neck + h * 0.08], fill=(84, 52, 30))
    draw.ellipse([middle - head, y1, middle + head, y1 + 2 * head], fill=SKIN)
    draw.pieslice([middle - head, y1, middle + head, y1 + 2 * head], 180, 360, fill=(60, 40, 26))
    if look.bag:
        draw.rectangle([middle + w * 0.26, y1 + h * 0.42, middle + w * 0.5, y1 + h * 0.62], fill=(150, 96, 30))


def _cyclist(draw: ImageDraw.ImageDraw, box: list[float], look: Look, view: float) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    radius = h * 0.2
    apart = max(w / 2 - radius, 0) * abs(np.sin(view))
    middle = (x1 + x2) / 2
    for x in (middle - apart, middle + apart):
        narrow = radius * max(0.25, abs(np.sin(view)))
        draw.ellipse([x - narrow, y2 - 2 * radius, x + narrow, y2], outline=TYRE, width=max(1, int(h * 0.03)))
    draw.line(
        [(middle - apart, y2 - radius), (middle, y2 - h * 0.42), (middle + apart, y2 - radius)],
        fill=(90, 90, 96),
        width=max(1, int(h * 0.03)),
    )
    half = min(w * 0.3, h * 0.16)
    _person(draw, [middle - half * 1.6, y1, middle + half * 1.6, y2 - h * 0.15], look, None)
