"""Makes data sets of procedural people in the layouts of CUHK-PEDES and ORBench.

What an identity is, its outfits, a picture and its captions depend on the seed, the identity's number and the
picture's number alone, not on how many of them are made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from PIL import Image

from ..layouts.annotations import read_json
from ..layouts.cuhk_pedes_write import Item, write_annotations
from ..layouts.orbench import IMAGE_MODALITIES
from ..layouts.orbench_write import write_captions
from ..problems import InputError
from ..storage.store import Store
from .person import Camera, Clothes, Person, draw_camera, draw_clothes, draw_person, draw_shot
from .person_captions import describe
from .person_paint import Picture, render

FACTORS_FILE = "factors.json"
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}  # of the identities
OUTFITS = 3  # an identity has
_QUALITY = 92  # of a JPEG
_PERSON, _CLOTHES, _CHOICE, _CAMERA, _PICTURE, _WORDS = range(6)  # what a generator is for
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRecipe:
    """What to make."""

    identities: int = 600  # a fifth each are for validation and test
    images: int = 4  # of an identity, in each modality
    captions: int = 2  # of an image
    cameras: int = 4
    changed: float = 0.25  # share of images in other clothes than the usual ones
    height: int = 96  # of an image in pixels
    width: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        lows = {"identities": 10, "images": 1, "captions": 1, "cameras": 1, "height": 32, "width": 16, "seed": 0}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} must be >= {low}, got {getattr(self, name)}")
        if not 0 <= self.changed <= 1:
            raise InputError(f"changed must be in 0..1, got {self.changed}")


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's person, clothes and shot; it can be rendered in every modality."""

    identity: int
    number: int  # of the picture
    person: Person
    clothes: Clothes
    outfit: int
    camera: int

    def facts(self) -> dict[str, Any]:
        """The true factors."""
        where = {"identity": self.identity, "image": self.number, "camera": self.camera, "outfit": self.outfit}
        return where | asdict(self.person) | asdict(self.clothes)


class People:
    """Everyone that a recipe can make."""

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
        person, outfits = self._who(identity)
        rng = self._rng(_CHOICE, identity, number)
        outfit = int(rng.integers(1, OUTFITS)) if rng.random() < self.recipe.changed else 0
        camera = (number + identity) % self.recipe.cameras
        return Scene(identity, number, person, outfits[outfit], outfit, camera)

    def _who(self, identity: int) -> tuple[Person, tuple[Clothes, ...]]:
        """An identity and its outfits."""
        if identity not in self._known:
            person = draw_person(self._rng(_PERSON, identity))
            outfits = [draw_clothes(self._rng(_CLOTHES, identity, outfit), person) for outfit in range(OUTFITS)]
            self._known[identity] = person, tuple(outfits)
        return self._known[identity]

    def picture(self, scene: Scene, modality: str) -> Picture:
        """A scene in one of vis, nir, sk, cp; height x width x 3, or height x width."""
        shot = draw_shot(self._rng(_PICTURE, scene.identity, scene.number), self.cameras[scene.camera])
        return render(modality, scene.person, scene.clothes, shot, self.recipe.height, self.recipe.width)

    def captions(self, scene: Scene) -> list[str]:
        """What is said of a picture: no caption twice."""
        rng = self._rng(_WORDS, scene.identity, scene.number)
        told = (describe(scene.person, scene.clothes, rng) for _ in range(50 * self.recipe.captions))
        return list(islice(_unlike(told), self.recipe.captions))

    def splits(self) -> dict[int, str]:
        """Identity -> train, val or test, in the order of their numbers."""
        cuts = np.cumsum([round(share * self.recipe.identities) for share in SPLITS.values()])
        return {i: list(SPLITS)[int(np.searchsorted(cuts[:-1], i, "right"))] for i in range(self.recipe.identities)}


def _unlike(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def make_cuhk_pedes(
    out: Store, recipe: PeopleRecipe, say: Say = lambda _: None, annotations: str = "reid_raw.json"
) -> dict[str, int]:
    """Writes CUHK-PEDES's layout, or by the name of its annotation file a relative's, to an empty `out`.

    Returns counts; `say` hears one line a split.
    """
    people = People(recipe)
    items: list[Item] = []

    def rows() -> Iterator[tuple[str, Scene, str]]:
        for identity, split in people.splits().items():
            for number in range(recipe.images):
                scene = people.scene(identity, number)
                path = f"cam_{scene.camera}/{identity + 1:05d}_c{scene.camera}_{number:02d}.jpg"
                items.append(Item(split, identity + 1, path, people.captions(scene)))
                yield f"imgs/{path}", scene, "vis"

    facts = _write_pictures(out, people, rows())
    write_annotations(out, items, annotations)
    for split in SPLITS:
        say(f"{split}: {sum(item.split == split for item in items)} images")
    _finish(out, recipe, facts, "cuhk-pedes")
    return {
        "identities": recipe.identities,
        "images": len(items),
        "captions": sum(len(item.captions) for item in items),
    }


def make_orbench(out: Store, recipe: PeopleRecipe, say: Say = lambda _: None) -> dict[str, int]:
    """Writes ORBench's layout to an empty `out`: every modality of an identity shows pictures of its own.

    Returns counts; `say` hears one line a split.
    """
    people = People(recipe)
    captions: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}

    def rows() -> Iterator[tuple[str, Scene, str]]:
        for identity, split in people.splits().items():
            for place, modality in enumerate(IMAGE_MODALITIES):
                for shown in range(recipe.images):
                    scene = people.scene(identity, place * recipe.images + shown)
                    path = f"{modality}/{identity + 1:04d}/{identity + 1:04d}_c{scene.camera:02d}_{shown:02d}.jpg"
                    if modality == "vis":
                        captions[split] += [(path, text) for text in people.captions(scene)]
                    yield f"{split}/{path}", scene, modality

    facts = _write_pictures(out, people, rows())
    for split, said in captions.items():
        write_captions(out, split, said)
        say(f"{split}: {len(said)} captions")
    _finish(out, recipe, facts, "orbench")
    counts = dict.fromkeys(IMAGE_MODALITIES, recipe.identities * recipe.images)
    return {"identities": recipe.identities, **counts, "text": sum(map(len, captions.values()))}


def _write_pictures(out: Store, people: People, rows: Iterator[tuple[str, Scene, str]]) -> list[dict[str, Any]]:
    """Renders and writes pictures; returns the factors of each."""
    if out.names():
        raise InputError(f"{out.uri} must be empty or new")

    facts = []
    with ThreadPoolExecutor(8) as pool:
        pending = []
        for path, scene, modality in rows:
            facts.append({"path": path, "modality": modality, **scene.facts(), "identity": scene.identity + 1})
            pending.append(pool.submit(out.write, path, _jpeg(people.picture(scene, modality))))
        for future in pending:
            future.result()
    return facts


def _jpeg(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _finish(out: Store, recipe: PeopleRecipe, facts: Sequence[dict[str, Any]], layout: str) -> None:
    columns = {name: [row[name] for row in facts] for name in facts[0]}
    out.write(FACTORS_FILE, json.dumps(columns).encode())
    out.write("made.json", json.dumps({"layout": layout, **asdict(recipe)}, indent=1).encode())


def factors(store: Store) -> pa.Table:
    """What each picture of made data truly shows: path, modality, identity, image, camera, outfit (0 is the usual
    one), all traits of the person, and of the clothes top_colour and the rest."""
    return pa.table(read_json(store, FACTORS_FILE))
