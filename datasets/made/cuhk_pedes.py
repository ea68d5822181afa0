"""Made people in the layout of CUHK-PEDES, or of a relative of it."""

from __future__ import annotations

from collections.abc import Iterator

from ..contract import Tell
from ..layouts.cuhk_pedes import IMAGES
from ..layouts.cuhk_pedes_write import Item, write_annotations
from ..storage.store import Store
from .people.identities import SPLITS, People, PeopleRecipe, Scene
from .people.write import write_pictures, write_record

Recipe = PeopleRecipe


def make(
    out: Store, recipe: Recipe, tell: Tell = lambda _: None, annotations: str = "reid_raw.json"
) -> dict[str, int | str]:
    """Writes the data set to an empty `out`; `tell` gets a line a split.

    `annotations` is the name of the annotation file, which says whose layout it is: see `layouts.cuhk_pedes`.
    Returns counts of identities, images and captions. Raises InputError where `out` is not empty.
    """
    people = People(recipe)
    items: list[Item] = []

    def rows() -> Iterator[tuple[str, Scene, str]]:
        for identity, split in people.splits().items():
            for number in range(recipe.images):
                scene = people.scene(identity, number)
                path = f"cam_{scene.camera}/{identity + 1:05d}_c{scene.camera}_{number:02d}.jpg"
                items.append(Item(split, identity + 1, path, people.captions(scene)))
                yield f"{IMAGES}/{path}", scene, "vis"

    shown = write_pictures(out, people, rows())
    write_annotations(out, items, annotations)
    for split in SPLITS:
        tell(f"{split}: {sum(item.split == split for item in items)} images")
    write_record(out, recipe, shown, "cuhk-pedes")
    return {
        "identities": recipe.identities,
        "images": len(items),
        "captions": sum(len(item.captions) for item in items),
    }
