"""Colours a map of layers as one of four modalities: RGB, near infrared, sketch, colour pencil."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .figure import Layer, Layers
from .person import COLOURS, HAIR, SKIN, Clothes, Person, Shot
from .shape import layers as layers_of

Picture = NDArray[np.uint8]  # height x width x 3, or height x width where the modality has one channel

# Reflectance in near infrared, about 850 nm: most dyes are clear there, so the cloth matters and not its colour;
# skin and plants are bright, hair is lighter than it looks.
_TOP_NIR = {"t-shirt": 0.72, "shirt": 0.8, "sweater": 0.6, "hoodie": 0.66, "jacket": 0.36, "coat": 0.48}
_BOTTOM_NIR = {"trousers": 0.5, "jeans": 0.4, "shorts": 0.62, "skirt": 0.7}
_SKIN_NIR = {"pale": 0.68, "tanned": 0.64, "brown": 0.58, "dark": 0.5}
_HAIR_NIR = {"black": 0.3, "brown": 0.42, "blond": 0.62, "red": 0.52, "grey": 0.58}
_CARBON_BLACK = 0.7  # what black pigment leaves of a cloth's reflectance
_LAYERS = len(Layer)


def render(modality: str, person: Person, clothes: Clothes, shot: Shot, height: int, width: int) -> Picture:
    """One picture of `height` x `width`: `vis` and `cp` have three channels, `nir` and `sk` one."""
    layers = layers_of(person, clothes, shot, 2 * height, 2 * width)
    return _PAINT[modality](layers, person, clothes, shot, np.random.default_rng(shot.noise_seed))


def _albedo(person: Person, clothes: Clothes, shot: Shot) -> NDArray[np.float32]:
    """Colour of each layer, 0..255."""
    colour = np.zeros((_LAYERS, 3), np.float32)
    camera = shot.camera
    colour[Layer.WALL], colour[Layer.FLOOR] = camera.wall, camera.floor
    colour[Layer.THING], colour[Layer.OTHER_THING] = camera.things
    colour[Layer.SHADOW] = colour[Layer.FLOOR] * 0.55
    colour[Layer.SKIN], colour[Layer.HAIR] = SKIN[person.skin], HAIR[person.hair_colour]
    colour[Layer.SKIN_FAR], colour[Layer.HAIR_DARK] = colour[Layer.SKIN] * 0.82, colour[Layer.HAIR] * 0.8
    colour[Layer.TOP], colour[Layer.TOP_PATTERN] = COLOURS[clothes.top_colour], COLOURS[clothes.pattern_colour]
    colour[Layer.TOP_FAR], colour[Layer.TRIM] = colour[Layer.TOP] * 0.8, colour[Layer.TOP] * 0.62
    colour[Layer.UNDER] = (225, 225, 222) if clothes.top_colour != "white" else (70, 74, 84)
    colour[Layer.BOTTOM] = COLOURS[clothes.bottom_colour]
    if clothes.bottom == "jeans":
        colour[Layer.BOTTOM] = colour[Layer.BOTTOM] * 0.8 + 20
    colour[Layer.BOTTOM_FAR] = colour[Layer.BOTTOM] * 0.78
    colour[Layer.SHOE], colour[Layer.BAG] = COLOURS[clothes.shoe_colour], COLOURS[clothes.bag_colour]
    colour[Layer.STRAP] = colour[Layer.BAG] * 0.6
    colour[Layer.FEATURE] = (70, 30, 30) if person.skin != "dark" else (235, 225, 220)
    return colour


def _reflectance(person: Person, clothes: Clothes, shot: Shot) -> NDArray[np.float32]:
    """Near-infrared reflectance of each layer, 0..1."""
    near = np.full(_LAYERS, 0.3, np.float32)
    camera = shot.camera
    grey = [sum(rgb) / 765 for rgb in (camera.wall, camera.floor, *camera.things)]
    near[: Layer.SHADOW] = 0.12 + 0.25 * np.array(grey)
    near[Layer.SHADOW] = near[Layer.FLOOR] * 0.6
    near[Layer.SKIN], near[Layer.HAIR] = _SKIN_NIR[person.skin], _HAIR_NIR[person.hair_colour]

    def cloth(value: float, colour: str) -> float:
        return value * (_CARBON_BLACK if colour == "black" else 1.0)

    near[Layer.TOP] = cloth(_TOP_NIR[clothes.top], clothes.top_colour)
    near[Layer.TOP_PATTERN] = near[Layer.TOP] * 0.85
    near[Layer.BOTTOM] = cloth(_BOTTOM_NIR[clothes.bottom], clothes.bottom_colour)
    near[Layer.SHOE], near[Layer.BAG] = cloth(0.45, clothes.shoe_colour), cloth(0.38, clothes.bag_colour)
    for darker, of, share in (
        (Layer.SKIN_FAR, Layer.SKIN, 0.85),
        (Layer.HAIR_DARK, Layer.HAIR, 0.8),
        (Layer.TOP_FAR, Layer.TOP, 0.85),
        (Layer.BOTTOM_FAR, Layer.BOTTOM, 0.85),
        (Layer.TRIM, Layer.TOP, 0.75),
        (Layer.STRAP, Layer.BAG, 0.7),
        (Layer.FEATURE, Layer.SKIN, 0.4),
    ):
        near[darker] = near[of] * share
    near[Layer.UNDER] = 0.75
    return near


def _half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def _coloured(layers: Layers, palette: NDArray[np.float32]) -> Image.Image:
    """The map with each layer in its colour, at the picture's size."""
    image = Image.fromarray(layers).convert("P")
    image.putpalette(np.clip(palette, 0, 255).astype(np.uint8).tobytes())
    return _half(image.convert("RGB"))


def _vis(layers: Layers, person: Person, clothes: Clothes, shot: Shot, rng: Generator) -> Picture:
    image = _coloured(layers, _albedo(person, clothes, shot))
    if shot.camera.blur_px > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(shot.camera.blur_px))
    colour = np.asarray(image).astype(np.float32)
    across = 1 + 0.3 * shot.side * np.linspace(-1, 1, colour.shape[1], dtype=np.float32)
    colour *= across[None, :, None] * np.array(shot.camera.cast, np.float32) * shot.gain
    colour += rng.standard_normal(colour.shape, dtype=np.float32) * shot.camera.noise
    return np.clip(colour, 0, 255).astype(np.uint8)


def _nir(layers: Layers, person: Person, clothes: Clothes, shot: Shot, rng: Generator) -> Picture:
    palette = 255 * _reflectance(person, clothes, shot)
    lit = np.zeros(256, np.uint8)
    lit[:_LAYERS] = np.clip(palette, 0, 255)
    light = np.asarray(_half(Image.fromarray(lit[layers]))).astype(np.float32)
    height, width = light.shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    light *= (1.35 - 0.4 * (x**2 + 0.5 * y**2)) * shot.gain  # the camera's own lamp falls off to the edges
    light += rng.standard_normal(light.shape, dtype=np.float32) * (shot.camera.noise + 3)
    return np.clip(light, 0, 255).astype(np.uint8)


def _drawn(layers: Layers, rng: Generator) -> Layers:
    """The person alone, as a hand draws: the place is left out (layer 0) and outlines waver."""
    alone = np.where(layers <= Layer.SHADOW, np.uint8(Layer.WALL), layers)
    height, width = alone.shape
    knots = rng.normal(0, 0.012 * width, 7)
    shift = np.interp(np.linspace(0, 6, height), np.arange(7), knots).round().astype(np.intp)
    columns = np.clip(np.arange(width) + shift[:, None], 0, width - 1)
    return np.take_along_axis(alone, columns, 1)


def _outlines(layers: Layers) -> NDArray[np.bool_]:
    edges = np.zeros(layers.shape, bool)
    edges[:, 1:] |= layers[:, 1:] != layers[:, :-1]
    edges[1:] |= layers[1:] != layers[:-1]
    return edges


def _strokes(shape: tuple[int, ...], rng: Generator, step: int) -> NDArray[np.bool_]:
    """Parallel slanted strokes."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    slant = int(rng.integers(1, 3))
    return (x * slant + y + int(rng.integers(step))) % step < step // 3


def _sk(layers: Layers, person: Person, clothes: Clothes, shot: Shot, rng: Generator) -> Picture:
    alone = _drawn(layers, rng)
    brightness = np.full(256, 255.0, np.float32)
    brightness[:_LAYERS] = _albedo(person, clothes, shot).mean(1)
    brightness[Layer.WALL] = 255
    tone = brightness[alone]
    paper = np.full(alone.shape, 250, np.uint8)
    paper[(tone < 110) & _strokes(alone.shape, rng, 6)] = 165
    paper[(tone < 60) & _strokes(alone.shape, rng, 3)] = 135
    lines = _outlines(alone)
    lines[:, 1:] |= lines[:, :-1]
    paper[lines] = int(rng.integers(25, 70))
    light = np.asarray(_half(Image.fromarray(paper))).astype(np.float32)
    light += rng.standard_normal(light.shape, dtype=np.float32) * 3
    return np.clip(light, 0, 255).astype(np.uint8)


def _cp(layers: Layers, person: Person, clothes: Clothes, shot: Shot, rng: Generator) -> Picture:
    alone = _drawn(layers, rng)
    pencil = _albedo(person, clothes, shot) * rng.uniform(0.9, 1.1, (_LAYERS, 1)).astype(np.float32)
    pencil[Layer.WALL] = 250
    heavy = np.minimum(pencil + 12, 250)
    light = 250 - (250 - pencil) * 0.62
    palette = np.concatenate([heavy, light, pencil * 0.5])  # pressed, between strokes, outlines
    pressed = alone + np.uint8(_LAYERS) * ~_strokes(alone.shape, rng, 5)
    pressed = np.where(_outlines(alone), alone + np.uint8(2 * _LAYERS), pressed)
    pressed[alone == Layer.WALL] = Layer.WALL
    colour = np.asarray(_coloured(pressed, palette)).astype(np.float32)
    colour += rng.standard_normal(colour.shape[:2], dtype=np.float32)[..., None] * 5
    return np.clip(colour, 0, 255).astype(np.uint8)


_PAINT: dict[str, Callable[[Layers, Person, Clothes, Shot, Generator], Picture]] = {
    "vis": _vis,
    "nir": _nir,
    "sk": _sk,
    "cp": _cp,
}
