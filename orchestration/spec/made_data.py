"""Data sets that can be made, by kind: the recipe's class and the function that follows it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...datasets.made.people import PeopleRecipe, make_cuhk_pedes, make_orbench
from ...datasets.made.refer_kitti import Recipe, make
from ...datasets.problems import InputError
from ...datasets.storage.store import Store

Make = Callable[[Store, Any, Callable[[str], None]], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of made data."""

    recipe: type
    make: Make

    @property
    def numbers(self) -> dict[str, type]:
        """The recipe's fields that are numbers, with their types."""
        hints = typing.get_type_hints(self.recipe)
        return {f.name: hints[f.name] for f in dataclasses.fields(self.recipe) if hints[f.name] in (int, float)}


KINDS: Mapping[str, Kind] = {
    "refer-kitti": Kind(Recipe, make),
    "cuhk-pedes": Kind(PeopleRecipe, make_cuhk_pedes),
    "orbench": Kind(PeopleRecipe, make_orbench),
}


def kind_of(name: str, where: str) -> Kind:
    """A kind by its name; `where` begins the InputError that says the choices."""
    if name not in KINDS:
        raise InputError(f"{where} must be one of {', '.join(KINDS)}, got {name!r}")
    return KINDS[name]


def number(kind: Kind, field: str, text: str) -> int | float | None:
    """A recipe's field from text; None where the recipe has no such field or the text is no such number."""
    wanted = kind.numbers.get(field)
    if wanted is int:
        return int(text) if text.isascii() and text.isdigit() else None
    try:
        return float(text) if wanted is float else None
    except ValueError:
        return None


def listed(names: typing.Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
