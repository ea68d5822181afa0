"""Draws the head of a person: face, beard and hair, from the front or from behind."""

from __future__ import annotations

from .figure import CHIN, SHOULDER, Figure, Layer
from .person import FACES


def _face(figure: Figure) -> tuple[float, float]:
    """Half the width and half the height."""
    return 0.058 * FACES[figure.person.face], 0.084 if figure.person.face != "long" else 0.092


def hair_behind(figure: Figure) -> None:
    """Hair that the head and the body hide in part: drawn first."""
    rx, ry = _face(figure)
    style = figure.person.hair
    back = -0.03 * figure.turn
    if style == "long":
        figure.polygon(
            [(back - rx * 1.25, 0.06), (back + rx * 1.25, 0.06), (back + rx * 1.4, 0.31), (back - rx * 1.4, 0.31)],
            Layer.HAIR_DARK,
        )
    elif style == "bob":
        figure.polygon(
            [
                (back - rx * 1.3, 0.06),
                (back + rx * 1.3, 0.06),
                (back + rx * 1.45, 0.175),
                (back - rx * 1.45, 0.175),
            ],
            Layer.HAIR_DARK,
        )
    elif style == "curly":
        figure.ellipse(back * 0.7, 0.07, rx * 1.75, ry * 1.22, Layer.HAIR_DARK)
    elif style == "bun":
        figure.ellipse(back * 1.6, -0.015, 0.036, 0.032, Layer.HAIR_DARK)


def head(figure: Figure, behind: bool) -> None:
    """Neck, face and hair, or the head from behind."""
    rx, ry = _face(figure)
    figure.polygon([(-0.03, 0.13), (0.03, 0.13), (0.032, SHOULDER), (-0.032, SHOULDER)], Layer.SKIN_FAR)
    if figure.person.face == "square":
        cut = rx * 0.55
        figure.polygon(
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
        figure.ellipse(0, 0.083, rx, ry, Layer.SKIN)
    if behind:
        _hair_from_behind(figure, rx, ry)
        return
    off = figure.turn * rx * 0.62
    for sign in (-1, 1):
        x = off + sign * 0.024 * max(0.5, figure.front)
        if abs(x) < rx:
            figure.ellipse(x, 0.085, 0.0075, 0.008, Layer.FEATURE)
    if figure.person.beard == "beard":
        figure.polygon(
            [(off - rx * 0.75, 0.112), (off + rx * 0.75, 0.112), (off + rx * 0.5, CHIN + 0.012),
             (off - rx * 0.5, CHIN + 0.012)], Layer.HAIR,
        )  # fmt: skip
    elif figure.person.beard == "moustache":
        figure.ellipse(off, 0.115, 0.027, 0.009, Layer.HAIR)
    figure.ellipse(off, 0.134, 0.014, 0.005, Layer.FEATURE)
    _hair_in_front(figure, rx, ry)


def _hair_in_front(figure: Figure, rx: float, ry: float) -> None:
    if figure.person.hair == "bald":
        return
    px, py = figure.at(-0.012 * figure.turn, 0.075)
    w, h = rx * 1.12 * figure.unit, (ry + 0.006) * figure.unit
    figure.draw.pieslice([px - w, py - h, px + w, py + h], 188, 352, fill=int(Layer.HAIR))
    if figure.person.hair in ("long", "bob"):
        for sign in (-1, 1):
            low = 0.29 if figure.person.hair == "long" else 0.17
            x = sign * rx * 1.08 - 0.02 * figure.turn
            figure.polygon([(x - 0.012, 0.05), (x + 0.012, 0.05), (x + 0.016, low), (x - 0.016, low)], Layer.HAIR)
    if figure.person.hair == "curly":
        for x in (-0.05, -0.02, 0.02, 0.05):
            figure.ellipse(x - 0.01 * figure.turn, 0.012, 0.028, 0.026, Layer.HAIR)
    if figure.person.hair == "ponytail":
        x = -(rx + 0.012) * figure.toward
        figure.limb([(x, 0.05), (x * 1.5, 0.11), (x * 1.45, 0.22)], 0.017, Layer.HAIR_DARK)


def _hair_from_behind(figure: Figure, rx: float, ry: float) -> None:
    style = figure.person.hair
    if style == "bald":
        return
    figure.ellipse(0, 0.07, rx * 1.1, ry * (0.92 if style == "cropped" else 1.05), Layer.HAIR)
    low = {"long": 0.32, "bob": 0.18}.get(style)
    if low is not None:
        figure.polygon([(-rx * 1.2, 0.06), (rx * 1.2, 0.06), (rx * 1.35, low), (-rx * 1.35, low)], Layer.HAIR)
    elif style == "ponytail":
        figure.limb([(0, 0.05), (0.012, 0.15), (0.006, 0.25)], 0.02, Layer.HAIR_DARK)
    elif style == "bun":
        figure.ellipse(0, 0.03, 0.036, 0.032, Layer.HAIR_DARK)
    elif style == "curly":
        figure.ellipse(0, 0.07, rx * 1.75, ry * 1.22, Layer.HAIR)
