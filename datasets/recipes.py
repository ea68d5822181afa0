"""What is common to all recipes of made data: their fields, from text and described."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from . import discovery
from .problems import InputError


def number(default: float, text: str, *, low: float, high: float | None = None) -> Any:
    """A field of a recipe that is an int or a float in low..high; `text` is its help."""
    return dataclasses.field(default=default, metadata={"help": text, "low": low, "high": high})


def folder(text: str) -> Any:
    """A field of a recipe that is a folder of the user's, None if not given; `text` is its help. `made:` takes none:
    what is made there must not depend on the machine."""
    return dataclasses.field(default=None, metadata={"help": text})


def check_bounds(recipe: Any) -> None:
    """Raises InputError for the first number that is out of its bounds; for a recipe's `__post_init__`."""
    for field in dataclasses.fields(recipe):
        value, low, high = getattr(recipe, field.name), field.metadata.get("low"), field.metadata.get("high")
        if low is None:
            continue
        if high is None and not value >= low:
            raise InputError(f"{field.name} must be >= {low}, got {value}")
        if high is not None and not low <= value <= high:
            raise InputError(f"{field.name} must be in {low}..{high}, got {value}")


@dataclass(frozen=True, slots=True)
class RecipeField:
    """A field of a recipe as commands show it."""

    name: str
    type: Any  # int, float, or str | None for a folder
    default: Any
    help: str
    low: float | None  # bounds of a number; None: no bound
    high: float | None

    @property
    def is_number(self) -> bool:
        """Whether `made:` takes it."""
        return self.type in (int, float)

    def parse(self, text: str) -> int | float | None:
        """A number from text; None where it is none."""
        if self.type is int:
            return int(text) if text.isascii() and text.isdigit() else None
        try:
            return float(text) if self.type is float else None
        except ValueError:
            return None


def fields_of(recipe: type) -> tuple[RecipeField, ...]:
    """The fields of a recipe's class, in their order."""
    hints = typing.get_type_hints(recipe)
    return tuple(
        RecipeField(
            field.name,
            hints[field.name],
            field.default,
            field.metadata.get("help", ""),
            field.metadata.get("low"),
            field.metadata.get("high"),
        )
        for field in dataclasses.fields(recipe)
    )


def from_uri(uri: str) -> tuple[str, Any]:
    """(kind, recipe) of `made:refer-kitti?videos=6`. Raises InputError for an unknown kind, field or value."""
    kind, _, query = uri.removeprefix("made:").partition("?")
    recipe = discovery.maker(kind, "data: the kind after made:").Recipe
    fields = {field.name: field for field in fields_of(recipe) if field.is_number}
    values: dict[str, int | float] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        value = fields[name].parse(text) if name in fields else None
        if value is None:
            raise InputError(f"data: made:{kind} takes {listed(fields)}, got {name}={text}")
        values[name] = value
    return kind, recipe(**values)


def listed(names: Collection[str]) -> str:
    """`a, b and c`; `nothing` of no names."""
    *most, last = names or ("nothing",)
    return f"{', '.join(most)} and {last}" if most else last
