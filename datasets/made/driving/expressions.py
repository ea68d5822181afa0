"""Expressions in Refer-KITTI's grammar for the objects of a made scene, true frame by frame by geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .scene import HZ, PEOPLE, Actor, Scene

Mask = NDArray[np.bool_]
Predicate = Callable[[Scene, Actor], Mask]
MIN_BOXES = 8  # an expression with fewer positive boxes in a video is not used there
LIGHT = ("white", "silver")


@dataclass(frozen=True, slots=True)
class Template:
    """An expression, when it holds, and how common it is in training videos (0: only in test videos)."""

    raw: str  # as a file name: words joined by hyphens
    holds: Predicate
    share: float


def expressions_of(scene: Scene, rng: Generator, *, test: bool, most: int) -> dict[str, dict[int, list[int]]]:
    """Raw expression -> frame -> ids, at most `most` expressions; every test video may use any of them."""
    chosen: dict[str, dict[int, list[int]]] = {}
    templates = list(_templates())
    for index in rng.permutation(len(templates)):
        template = templates[index]
        if not test and rng.random() >= template.share:
            continue
        if test and template.share > 0 and rng.random() >= max(template.share, 0.4):
            continue
        frames = _frames(scene, template.holds)
        if sum(len(ids) for ids in frames.values()) >= MIN_BOXES:
            chosen[template.raw] = frames
        if len(chosen) == most:
            break
    return dict(sorted(chosen.items()))


def _frames(scene: Scene, holds: Predicate) -> dict[int, list[int]]:
    frames: dict[int, list[int]] = {}
    for actor in scene.actors:
        for frame in actor.frame_F[holds(scene, actor)]:
            frames.setdefault(int(frame), []).append(actor.id)
    return {frame: sorted(ids) for frame, ids in sorted(frames.items())}


def _templates() -> Iterator[Template]:
    """Every expression there can be."""
    for noun, share in (("cars", 0.7), ("vehicles", 0.3)):
        yield from _of_vehicles(noun, share)
    for noun, share in (("pedestrian", 0.6), ("people", 0.3), ("persons", 0.1)):
        yield from _of_people(noun, share)
    for noun, share in (("women", 0.4), ("females", 0.15), ("men", 0.4), ("males", 0.15)):
        female = noun in ("women", "females")
        yield Template(noun, _all(_person, _female(female)), share)
        yield Template(f"{noun}-in-the-left", _all(_person, _female(female), _left), share)
        yield Template(f"{noun}-in-the-right", _all(_person, _female(female), _right), share)
        yield Template(f"walking-{noun}", _all(_person, _female(female), _moving), share / 2)
        yield Template(f"standing-{noun}", _all(_person, _female(female), _still), 0.0)
    yield Template("women-carrying-a-bag", _all(_person, _female(True), _bag), 0.1)
    yield Template("people-in-the-pants", _all(_person, _trousers), 0.1)


def _of_vehicles(noun: str, share: float) -> Iterator[Template]:
    yield Template(noun, _vehicle, share / 3)
    for colour, how_common in (
        ("black", 1.0),
        ("light-color", 1.0),
        ("silver", 0.6),
        ("white", 0.5),
        ("red", 0.4),
    ):
        often = share * how_common
        paint = _paint(colour)
        yield Template(f"{noun}-in-{colour}", _all(_vehicle, paint), often)
        yield Template(f"left-{noun}-in-{colour}", _all(_vehicle, paint, _left), often)
        yield Template(f"right-{noun}-in-{colour}", _all(_vehicle, paint, _right), often)
        yield Template(
            f"{colour}-{noun}-in-the-left",
            _all(_vehicle, paint, _left),
            0.0 if colour == "white" else often / 2,
        )
        yield Template(
            f"{colour}-{noun}-in-the-right",
            _all(_vehicle, paint, _right),
            0.0 if colour == "white" else often / 2,
        )
        yield Template(f"{colour}-moving-{noun}", _all(_vehicle, paint, _moving), often / 4)
    yield Template(f"{noun}-in-yellow", _all(_vehicle, _paint("yellow")), 0.0)
    for side, where in (("left", _left), ("right", _right)):
        yield Template(f"{noun}-in-{side}", _all(_vehicle, where), share)
        yield Template(f"{noun}-in-the-{side}", _all(_vehicle, where), share / 2)
        yield Template(f"{side}-{noun}-which-are-parking", _all(_vehicle, where, _still), share)
        yield Template(f"parking-{noun}-in-the-{side}", _all(_vehicle, where, _still), share / 4)
        yield Template(f"{side}-moving-{noun}", _all(_vehicle, where, _moving), share / 3)
        for word, way in (("same", _same), ("counter", _counter)):
            yield Template(f"{side}-{noun}-in-the-{word}-direction-of-ours", _all(_vehicle, where, way), share)
            yield Template(f"{word}-direction-{noun}-in-the-{side}", _all(_vehicle, where, way), share / 2)
    yield Template(f"{noun}-in-the-same-direction-of-ours", _all(_vehicle, _same), share)
    yield Template(f"{noun}-in-the-counter-direction-of-ours", _all(_vehicle, _counter), share)
    yield Template(f"moving-{noun}", _all(_vehicle, _moving), share)
    yield Template(f"parking-{noun}", _all(_vehicle, _still), share)
    yield Template(f"turning-{noun}", _all(_vehicle, _turning), share)
    yield Template(f"{noun}-in-front-of-ours", _all(_vehicle, _ahead), share)
    yield Template(f"{noun}-which-are-faster-than-ours", _all(_vehicle, _same, _faster), share / 3)
    yield Template(f"{noun}-which-are-slower-than-ours", _all(_vehicle, _same, _slower), share / 3)


def _of_people(noun: str, share: float) -> Iterator[Template]:
    yield Template(noun, _person, share)
    for side, where in (("left", _left), ("right", _right)):
        yield Template(f"{noun}-in-the-{side}", _all(_person, where), share)
        yield Template(f"{side}-{noun}-who-are-walking", _all(_person, where, _moving), share / 2)
    yield Template(f"walking-{noun}", _all(_person, _moving), share / 2)
    yield Template(f"{noun}-who-are-walking", _all(_person, _moving), share / 2)
    yield Template(f"moving-{noun}", _all(_person, _moving), 0.0)


def _all(*predicates: Predicate) -> Predicate:
    def holds(scene: Scene, actor: Actor) -> Mask:
        return np.logical_and.reduce([p(scene, actor) for p in predicates])

    return holds


def _constant(actor: Actor, value: bool) -> Mask:
    return np.full(len(actor.frame_F), value)


def _vehicle(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.kind in ("Car", "Van", "Truck"))


def _person(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.kind in PEOPLE)


def _paint(colour: str) -> Predicate:
    return lambda _, actor: _constant(actor, actor.look.colour in (LIGHT if colour == "light-color" else (colour,)))


def _female(value: bool) -> Predicate:
    return lambda _, actor: _constant(actor, actor.look.female == value)


def _bag(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.look.bag)


def _trousers(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, not actor.look.female)


def _centre(scene: Scene, actor: Actor) -> NDArray[np.float64]:
    return (actor.xyxy_F4[:, 0] + actor.xyxy_F4[:, 2]) / 2 / scene.size[0]


def _left(scene: Scene, actor: Actor) -> Mask:
    return _centre(scene, actor) < 0.46


def _right(scene: Scene, actor: Actor) -> Mask:
    return _centre(scene, actor) > 0.54


def _moving(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.moving)


def _still(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, not actor.moving)


def _turning(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.turning)


def _same(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.moving) & (np.cos(actor.heading_F) > 0.7)


def _counter(_: Scene, actor: Actor) -> Mask:
    return _constant(actor, actor.moving) & (np.cos(actor.heading_F) < -0.7)


def _ahead(_: Scene, actor: Actor) -> Mask:
    return (np.abs(actor.lateral_F) < 1.9) & (np.cos(actor.heading_F) > 0.7)


def _faster(scene: Scene, actor: Actor) -> Mask:
    return actor.forward_F > scene.ego_speed_F[actor.frame_F] + 10 / HZ


def _slower(scene: Scene, actor: Actor) -> Mask:
    return actor.forward_F < scene.ego_speed_F[actor.frame_F] - 10 / HZ
