"""Draws a person in a place as a map of layers: which pixel shows what. Every modality is coloured from it."""

from __future__ import annotations

import numpy as np

from .figure import ANKLE, HIP, KNEE, SHOULDER, Figure, Layer, Layers
from .head import hair_behind, head
from .person import Clothes, Person, Shot


def layers(person: Person, clothes: Clothes, shot: Shot, height: int, width: int) -> Layers:
    """The whole picture as a map of layers, `height` x `width`."""
    figure = Figure(person, clothes, shot, height, width)
    _place(figure)
    behind = figure.front < -0.2
    if figure.clothes.bag == "backpack" and not behind:
        _backpack(figure)
    hair_behind(figure)
    for far in (True, False):
        _leg(figure, far)
    _arm(figure, far=True)
    _bottom(figure)
    _torso(figure)
    head(figure, behind)
    _arm(figure, far=False)
    if figure.clothes.bag == "backpack" and behind:
        _backpack(figure)
    _bag(figure)
    return _patterned(figure, np.array(figure.canvas))


def _place(figure: Figure) -> None:
    width, height = figure.size
    horizon = figure.shot.camera.horizon * height
    figure.draw.rectangle([0, horizon, width, height], fill=int(Layer.FLOOR))
    for x, layer, size in zip(figure.shot.things_x, (Layer.THING, Layer.OTHER_THING), (0.16, 0.1), strict=True):
        left = (x - size / 2) * width
        figure.draw.rectangle([left, horizon * 0.35, left + size * width, horizon * 1.06], fill=int(layer))
    px, py, r = figure.middle, figure.ground, figure.unit
    figure.draw.ellipse([px - 0.17 * r, py - 0.025 * r, px + 0.17 * r, py + 0.02 * r], fill=int(Layer.SHADOW))


def _leg(figure: Figure, far: bool) -> None:
    sign = -1.0 if far else 1.0
    hip = (sign * figure.hip * 0.5, HIP - 0.02)
    foot_x = sign * (figure.hip * 0.42 + abs(figure.stride) * 0.35) + sign * figure.stride * 0.65 * figure.toward
    knee = ((hip[0] + foot_x) / 2 + 0.015 * figure.toward, KNEE)
    foot = (foot_x, ANKLE)
    covered = figure.clothes.bottom in ("trousers", "jeans")
    skin, cloth = (Layer.SKIN_FAR, Layer.BOTTOM_FAR) if far else (Layer.SKIN, Layer.BOTTOM)
    figure.limb([hip, knee, foot], figure.leg if covered else figure.leg * 0.82, cloth if covered else skin)
    if figure.clothes.bottom == "shorts":
        figure.limb([hip, (knee[0] * 0.75 + hip[0] * 0.25, KNEE - 0.06)], figure.leg * 1.15, cloth)
    toe = 0.03 * figure.turn
    figure.ellipse(foot_x + toe, 0.98, 0.036 + 0.012 * abs(figure.turn), 0.02, Layer.SHOE)


def _bottom(figure: Figure) -> None:
    if figure.clothes.bottom == "skirt":
        flare = figure.hip * 1.5
        figure.polygon(
            [(-figure.waist, 0.42), (figure.waist, 0.42), (flare, KNEE - 0.02), (-flare, KNEE - 0.02)], Layer.BOTTOM
        )
    else:
        figure.polygon(
            [(-figure.waist, 0.42), (figure.waist, 0.42), (figure.hip, 0.56), (-figure.hip, 0.56)], Layer.BOTTOM
        )


def _torso(figure: Figure) -> None:
    low = {"coat": 0.72, "jacket": 0.53, "hoodie": 0.54}.get(figure.clothes.top, 0.5)
    flare = figure.hip * (1.18 if figure.clothes.top == "coat" else 1.02)
    slope = SHOULDER + 0.025
    outline = [
        (-0.03, SHOULDER - 0.02), (0.03, SHOULDER - 0.02), (figure.shoulder, slope), (figure.waist * 1.05, 0.4),
        (flare, low), (-flare, low), (-figure.waist * 1.05, 0.4), (-figure.shoulder, slope),
    ]  # fmt: skip
    figure.polygon(outline, Layer.TOP)
    seen = max(figure.front, 0.0)
    off = figure.turn * figure.waist * 0.8
    top = figure.clothes.top
    if seen > 0.2 and top in ("jacket", "coat"):
        gap = 0.03 * seen
        figure.polygon([(off - gap, SHOULDER), (off + gap, SHOULDER), (off + gap * 0.6, low), (off, low)], Layer.UNDER)
    elif seen > 0.2 and top == "shirt":
        figure.polygon([(off - 0.006, SHOULDER), (off + 0.006, SHOULDER), (off + 0.006, low), (off, low)], Layer.TRIM)
        figure.polygon([(off - 0.045, SHOULDER - 0.02), (off + 0.045, SHOULDER - 0.02), (off, 0.245)], Layer.TRIM)
    elif top == "hoodie":
        figure.ellipse(-figure.turn * 0.03, SHOULDER - 0.005, 0.075, 0.032, Layer.TOP_FAR)
        if seen > 0.2:
            figure.polygon([(off - 0.05, 0.42), (off + 0.05, 0.42), (off + 0.06, 0.48), (off - 0.06, 0.48)], Layer.TRIM)
    elif top == "sweater":
        figure.polygon([(-flare, low - 0.02), (flare, low - 0.02), (flare, low), (-flare, low)], Layer.TRIM)


def _arm(figure: Figure, far: bool) -> None:
    sign = -1.0 if far else 1.0
    shoulder = (sign * (figure.shoulder - figure.arm * 0.7), SHOULDER + 0.04)
    drift = sign * figure.reach * 1.1 + 0.3 * figure.reach * figure.shot.phase * figure.toward
    elbow = (shoulder[0] + sign * 0.018 + drift * 0.5, 0.37)
    hand = (shoulder[0] + sign * 0.016 + drift, 0.515 - abs(drift) * 0.35)
    sleeve, skin = (Layer.TOP_FAR, Layer.SKIN_FAR) if far else (Layer.TOP, Layer.SKIN)
    figure.limb([shoulder, elbow, hand], figure.arm * 0.8, skin)
    if figure.clothes.long_sleeves:
        wrist = (elbow[0] * 0.12 + hand[0] * 0.88, elbow[1] * 0.12 + hand[1] * 0.88)
        figure.limb([shoulder, elbow, wrist], figure.arm, sleeve)
    else:
        half = ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2)
        figure.limb([shoulder, half], figure.arm * 1.15, sleeve)


def _backpack(figure: Figure) -> None:
    if figure.front < -0.2:
        figure.polygon([(-0.085, 0.24), (0.085, 0.24), (0.095, 0.45), (-0.095, 0.45)], Layer.BAG)
        figure.polygon([(-0.06, 0.36), (0.06, 0.36), (0.06, 0.42), (-0.06, 0.42)], Layer.STRAP)
    else:
        x = -figure.toward * (figure.shoulder + 0.01) * (0.35 + 0.65 * abs(figure.turn))
        figure.ellipse(x, 0.33, 0.085, 0.12, Layer.BAG)


def _bag(figure: Figure) -> None:
    bag = figure.clothes.bag
    if bag == "backpack" and figure.front >= -0.2:
        for sign in (-1, 1):
            x = sign * figure.shoulder * 0.55 + figure.turn * 0.02
            figure.polygon([(x - 0.011, 0.205), (x + 0.011, 0.205), (x + 0.011, 0.36), (x - 0.011, 0.36)], Layer.BAG)
    elif bag == "shoulder bag":
        x = figure.hip + 0.035
        start, end = figure.at(-figure.shoulder * 0.6, SHOULDER + 0.01), figure.at(x, 0.47)
        figure.draw.line([start, end], fill=int(Layer.STRAP), width=max(1, round(0.014 * figure.unit)))
        figure.polygon([(x - 0.06, 0.45), (x + 0.055, 0.45), (x + 0.055, 0.56), (x - 0.06, 0.56)], Layer.BAG)
    elif bag == "handbag":
        x = -(figure.shoulder + 0.03 + figure.reach * 0.9)
        figure.polygon([(x - 0.05, 0.57), (x + 0.05, 0.57), (x + 0.06, 0.66), (x - 0.06, 0.66)], Layer.BAG)
        figure.polygon([(x - 0.02, 0.52), (x + 0.02, 0.52), (x + 0.03, 0.57), (x - 0.03, 0.57)], Layer.STRAP)


def _patterned(figure: Figure, layers: Layers) -> Layers:
    pattern = figure.clothes.pattern
    if pattern == "plain":
        return layers
    step = figure.unit * 0.042
    y, x = np.ogrid[: layers.shape[0], : layers.shape[1]]
    share = {"striped": 0.36, "checked": 0.24, "dotted": 0.45}[pattern]
    across, down = ((x - figure.middle) % step) < step * share, ((y - figure.ground) % step) < step * share
    if pattern == "striped":
        marks = np.broadcast_to(down, layers.shape)
    else:
        marks = across | down if pattern == "checked" else across & down
    layers[marks & ((layers == Layer.TOP) | (layers == Layer.TOP_FAR))] = Layer.TOP_PATTERN
    return layers
