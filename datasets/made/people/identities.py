"""Made people: who there is, what they wear on each picture, and what is written about it.

What an identity is, its outfits, a picture and its captions depend on the seed, the identity's number and the
picture's number alone, not on how many of them are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.random import Generator

from ...recipes import check_bounds, number
from .captions import describe
from .paint import Picture, render
from .person import Camera, Clothes, Person, draw_camera, draw_clothes, draw_person, draw_shot

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}  # of the identities
OUTFITS = 3  # an identity has
_PERSON, _CLOTHES, _CHOICE, _CAMERA, _PICTURE, _WORDS = range(6)  # what a generator is for


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRecipe:
    """Procedural people: pictures and captions."""

    identities: int = number(600, "People. A fifth of them are for validation, a fifth for testing.", low=10)
    images: int = number(4, "Pictures of an identity, in each modality.", low=1)
    captions: int = number(2, "Captions of a picture.", low=1)
    cameras: int = number(4, "Cameras.", low=1)
    changed: float = number(0.25, "Share of pictures in other clothes than the usual ones.", low=0, high=1)
    height: int = number(96, "Height of a picture in pixels.", low=32)
    width: int = number(48, "Width of a picture in pixels.", low=16)
    seed: int = number(0, "Seed of everything random.", low=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's person, clothes and shot; it can be rendered in every modality."""

    identity: int  # from 0
    number: int  # of the picture, from 0
    person: Person
    clothes: Clothes
    outfit: int  # 0 is the usual one
    camera: int

    def factors(self) -> dict[str, Any]:
        """What the picture truly shows: identity, image, camera, outfit, and every trait of person and clothes."""
        shot = {"identity": self.identity, "image": self.number, "camera": self.camera, "outfit": self.outfit}
        return shot | asdict(self.person) | asdict(self.clothes)


class People:
    """The identities of a recipe with their pictures and captions; each is drawn when it is asked for."""

    def __init__(self, recipe: PeopleRecipe) -> None:
        self.recipe = recipe
        self.cameras: tuple[Camera, ...] = tuple(
            draw_camera(self._rng(_CAMERA, number), number) for number in range(recipe.cameras)
        )
        self._known: dict[int, tuple[Person, tuple[Clothes, ...]]] = {}

    def _rng(self, *what: int) -> Generator:
        return np.random.default_rng((self.recipe.seed, *what))

    def scene(self, identity: int, number: int) -> Scene:
        """Picture `number` of an identity. Cameras take turns."""
        person, outfits = self._identity(identity)
        rng = self._rng(_CHOICE, identity, number)
        outfit = int(rng.integers(1, OUTFITS)) if rng.random() < self.recipe.changed else 0
        camera = (number + identity) % self.recipe.cameras
        return Scene(identity, number, person, outfits[outfit], outfit, camera)

    def _identity(self, identity: int) -> tuple[Person, tuple[Clothes, ...]]:
        if identity not in self._known:
            person = draw_person(self._rng(_PERSON, identity))
            outfits = [draw_clothes(self._rng(_CLOTHES, identity, outfit), person) for outfit in range(OUTFITS)]
            self._known[identity] = person, tuple(outfits)
        return self._known[identity]

    def picture(self, scene: Scene, modality: str) -> Picture:
        """A scene in the modality vis, nir, sk or cp: bytes, height x width x 3 (vis, cp) or height x width."""
        shot = draw_shot(self._rng(_PICTURE, scene.identity, scene.number), self.cameras[scene.camera])
        return render(modality, scene.person, scene.clothes, shot, self.recipe.height, self.recipe.width)

    def captions(self, scene: Scene) -> list[str]:
        """A picture's captions, `recipe.captions` of them, no two alike."""
        rng = self._rng(_WORDS, scene.identity, scene.number)
        drawn = (describe(scene.person, scene.clothes, rng) for _ in range(50 * self.recipe.captions))
        return list(islice(_distinct(drawn), self.recipe.captions))

    def splits(self) -> dict[int, str]:
        """Identity -> train, val or test, in the order of their numbers."""
        cuts = np.cumsum([round(share * self.recipe.identities) for share in SPLITS.values()])
        return {i: list(SPLITS)[int(np.searchsorted(cuts[:-1], i, "right"))] for i in range(self.recipe.identities)}


def _distinct(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text
