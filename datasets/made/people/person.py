"""A made person: the identity, the clothes, and the shot, which is how a picture is taken.

The three are drawn separately, each from a generator of its own seeds, so that clothes say nothing about the
identity but by habit: an identity has some outfits and usually wears the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

RGB = tuple[int, int, int]

HAIR: dict[str, RGB] = {
    "black": (26, 24, 28),
    "brown": (98, 60, 32),
    "blond": (222, 188, 104),
    "red": (170, 70, 26),
    "grey": (150, 150, 154),
}
SKIN: dict[str, RGB] = {
    "pale": (244, 214, 196),
    "tanned": (212, 160, 118),
    "brown": (146, 96, 62),
    "dark": (82, 52, 38),
}
COLOURS: dict[str, RGB] = {
    "black": (30, 30, 34),
    "white": (238, 238, 234),
    "grey": (134, 136, 140),
    "red": (196, 34, 38),
    "blue": (36, 76, 178),
    "green": (40, 132, 62),
    "yellow": (228, 196, 44),
    "purple": (120, 52, 150),
}
BUILDS = {"slim": 0.78, "average": 1.0, "sturdy": 1.24, "heavy": 1.5}  # width against the average
HEIGHTS = {"short": 0.78, "average": 0.85, "tall": 0.92}  # of a picture's height
FACES = {"round": 1.18, "long": 0.8, "square": 1.02}  # width against a plain oval
HAIR_STYLES = ("bald", "cropped", "bob", "long", "ponytail", "bun", "curly")
BEARDS = ("none", "beard", "moustache")
GAITS = ("upright", "striding", "stooped", "swinging")

TOPS = ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat")
PATTERNS = ("plain", "striped", "checked", "dotted")
BOTTOMS = ("trousers", "jeans", "shorts", "skirt")
BOTTOM_COLOURS = ("black", "blue", "grey", "white", "green")
SHOE_COLOURS = ("black", "white", "red", "yellow")
BAGS = ("none", "backpack", "shoulder bag", "handbag")
BAG_COLOURS = ("black", "red", "blue", "yellow")


@dataclass(frozen=True, slots=True)
class Person:
    """An identity: what clothes don't change."""

    gender: str  # man, woman
    build: str
    height: str
    gait: str
    hair: str  # style
    hair_colour: str
    skin: str
    face: str
    beard: str
    width: float  # of the body against its build's, about 1
    stature: float  # against its height's, about 1


@dataclass(frozen=True, slots=True)
class Clothes:
    """An outfit."""

    top: str
    top_colour: str
    pattern: str
    pattern_colour: str
    long_sleeves: bool
    bottom: str
    bottom_colour: str
    shoe_colour: str
    bag: str
    bag_colour: str


@dataclass(frozen=True, slots=True)
class Camera:
    """A place with its light and its colours."""

    yaw: float  # radians, from which people are mostly seen: 0 is from the front, pi from behind
    scale: float
    gain: float
    cast: tuple[float, float, float]  # of red, green, blue
    wall: RGB
    floor: RGB
    things: tuple[RGB, RGB]
    horizon: float  # share of the picture's height from its top
    blur_px: float
    noise: float  # standard deviation in grey levels


@dataclass(frozen=True, slots=True)
class Shot:
    """How one picture is taken."""

    camera: Camera
    yaw: float
    phase: float  # of the step, -1..1
    swing: float  # of the arms, -1..1
    x: float  # of the feet, share of the width
    scale: float
    gain: float
    side: float  # -1..1: light from the left or from the right
    things_x: tuple[float, float]
    noise_seed: int


def _pick(rng: Generator, names: tuple[str, ...] | list[str], weights: list[float] | None = None) -> str:
    share = None if weights is None else np.array(weights) / sum(weights)
    return names[int(rng.choice(len(names), p=share))]


def draw_person(rng: Generator) -> Person:
    """An identity at random."""
    gender = _pick(rng, ["man", "woman"])
    man = gender == "man"
    style = _pick(rng, HAIR_STYLES, [1.5, 3, 0.7, 0.7, 0.5, 0.4, 1.2] if man else [0.1, 0.8, 2, 3, 2, 1.5, 1.5])
    return Person(
        gender=gender,
        build=_pick(rng, list(BUILDS)),
        height=_pick(rng, list(HEIGHTS)),
        gait=_pick(rng, GAITS),
        hair=style,
        hair_colour=_pick(rng, list(HAIR)),
        skin=_pick(rng, list(SKIN)),
        face=_pick(rng, list(FACES)),
        beard=_pick(rng, BEARDS, [3, 2, 1] if man else [1, 0, 0]),
        width=float(rng.uniform(0.95, 1.05)),
        stature=float(rng.uniform(0.98, 1.02)),
    )


def draw_clothes(rng: Generator, person: Person) -> Clothes:
    """An outfit at random. Of the person only the gender matters, for skirts."""
    colour = _pick(rng, list(COLOURS))
    top = _pick(rng, TOPS)
    woman = person.gender == "woman"
    return Clothes(
        top=top,
        top_colour=colour,
        pattern=_pick(rng, PATTERNS, [5, 2, 1.5, 1]),
        pattern_colour="black" if colour in ("white", "yellow", "grey") else "white",
        long_sleeves=top in ("jacket", "coat", "hoodie", "sweater") or (top == "shirt" and bool(rng.random() < 0.6)),
        bottom=_pick(rng, BOTTOMS, [3, 3, 1.5, 3 if woman else 0]),
        bottom_colour=_pick(rng, BOTTOM_COLOURS),
        shoe_colour=_pick(rng, SHOE_COLOURS, [3, 3, 1, 1]),
        bag=_pick(rng, BAGS, [3, 2, 1.5, 1.5]),
        bag_colour=_pick(rng, BAG_COLOURS),
    )


def draw_camera(rng: Generator, number: int) -> Camera:
    """A place at random; every fourth camera sees people from behind."""
    facing = (0.0, 0.7, -0.7, np.pi)[number % 4]
    grey = rng.integers(90, 190)
    tint = rng.integers(-12, 13, size=(4, 3))
    wall, floor, first, second = (
        tuple(int(v) for v in np.clip(grey + shift + tint[i], 20, 235)) for i, shift in enumerate((20, -30, -60, 50))
    )
    return Camera(
        yaw=float(facing + rng.normal(0, 0.15)),
        scale=float(rng.uniform(0.94, 1.03)),
        gain=float(rng.uniform(0.75, 1.15)),
        cast=tuple(float(v) for v in rng.uniform(0.88, 1.1, 3)),  # type: ignore[arg-type]
        wall=wall,  # type: ignore[arg-type]
        floor=floor,  # type: ignore[arg-type]
        things=(first, second),  # type: ignore[arg-type]
        horizon=float(rng.uniform(0.45, 0.75)),
        blur_px=float(rng.uniform(0.0, 0.5)),
        noise=float(rng.uniform(2.0, 6.0)),
    )


def draw_shot(rng: Generator, camera: Camera) -> Shot:
    """A picture of a camera at random."""
    return Shot(
        camera=camera,
        yaw=float(camera.yaw + rng.normal(0, 0.3)),
        phase=float(rng.choice([-1, 1]) * rng.uniform(0.6, 1.0)),
        swing=float(rng.uniform(0.6, 1.0)),
        x=float(rng.uniform(0.44, 0.56)),
        scale=float(camera.scale * rng.uniform(0.97, 1.03)),
        gain=float(camera.gain * rng.uniform(0.85, 1.15)),
        side=float(rng.uniform(-1, 1)),
        things_x=(float(rng.uniform(0, 0.35)), float(rng.uniform(0.65, 1.0))),
        noise_seed=int(rng.integers(1 << 31)),
    )
