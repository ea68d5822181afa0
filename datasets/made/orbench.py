"""Made people in ORBench's layout: every modality of an identity shows pictures of its own."""

from __future__ import annotations

from collections.abc import Iterator

from ..contract import Tell
from ..layouts.orbench import IMAGE_MODALITIES
from ..layouts.orbench_write import write_captions
from ..storage.store import Store
from .people.identities import SPLITS, People, PeopleRecipe, Scene
from .people.write import write_pictures, write_record

Recipe = PeopleRecipe


def make(out: Store, recipe: Recipe, tell: Tell = lambda _: None) -> dict[str, int | str]:
    """Writes the data set to an empty `out`; `tell` gets a line a split.

    Returns counts of identities, of pictures of each modality, and of captions as `text`. Raises InputError where `out`
    is not empty.
    """
    people = People(recipe)
    captions: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}

    def rows() -> Iterator[tuple[str, Scene, str]]:
        for identity, split in people.splits().items():
            for place, modality in enumerate(IMAGE_MODALITIES):
                for number in range(recipe.images):
                    scene = people.scene(identity, place * recipe.images + number)
                    path = f"{modality}/{identity + 1:04d}/{identity + 1:04d}_c{scene.camera:02d}_{number:02d}.jpg"
                    if modality == "vis":
                        captions[split] += [(path, text) for text in people.captions(scene)]
                    yield f"{split}/{path}", scene, modality

    shown = write_pictures(out, people, rows())
    for split, of_split in captions.items():
        write_captions(out, split, of_split)
        tell(f"{split}: {len(of_split)} captions")
    write_record(out, recipe, shown, "orbench")
    counts = dict.fromkeys(IMAGE_MODALITIES, recipe.identities * recipe.images)
    return {"identities": recipe.identities, **counts, "text": sum(map(len, captions.values()))}
