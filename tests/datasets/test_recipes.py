"""Recipes of made data: their fields as commands show them, and `made:` URIs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from refsweep.datasets import discovery, recipes
from refsweep.datasets.problems import InputError
from refsweep.datasets.recipes import fields_of, folder, from_uri, listed, number


@dataclass(frozen=True, kw_only=True)
class Recipe:
    cars: int = number(3, "Cars.", low=1)
    share: float = number(0.5, "Share of red ones.", low=0, high=1)
    labels: str | None = folder("Where they are.")

    def __post_init__(self) -> None:
        recipes.check_bounds(self)


def test_fields_have_types_defaults_and_help():
    cars, share, labels = fields_of(Recipe)
    assert (cars.name, cars.type, cars.default, cars.help) == ("cars", int, 3, "Cars.")
    assert (share.name, share.type, share.default) == ("share", float, 0.5)
    assert [(field.low, field.high) for field in (cars, share, labels)] == [(1, None), (0, 1), (None, None)]
    assert (labels.name, labels.default, labels.help) == ("labels", None, "Where they are.")
    assert [field.is_number for field in (cars, share, labels)] == [True, True, False]


@pytest.mark.parametrize("kind", discovery.made_kinds())
def test_every_field_of_every_recipe_says_what_it_is(kind: str):
    recipe = discovery.maker(kind).Recipe
    assert all(
        field.help.endswith(".") and field.default == getattr(recipe(), field.name) for field in fields_of(recipe)
    )


def test_text_becomes_a_number_of_the_fields_type_or_nothing():
    cars, share, labels = fields_of(Recipe)
    assert [cars.parse(text) for text in ("7", "0", "-1", "1.5", "x", "", "²")] == [7, 0] + [None] * 5
    assert [share.parse(text) for text in ("1", ".25", "-1", "x", "")] == [1.0, 0.25, -1.0, None, None]
    assert labels.parse("1") is None


def test_a_number_outside_its_bounds_is_refused():
    assert Recipe(cars=1, share=1).cars == 1
    for wrong, message in (
        ({"cars": 0}, "cars must be >= 1, got 0"),
        ({"share": 1.5}, r"share must be in 0\.\.1, got 1\.5"),
        ({"share": float("nan")}, r"share must be in 0\.\.1, got nan"),
        ({"cars": float("nan")}, "cars must be >= 1, got nan"),
    ):
        with pytest.raises(InputError, match=message):
            Recipe(**wrong)


def test_a_uri_is_a_kind_and_its_recipe():
    kind, recipe = from_uri("made:refer-kitti?videos=6&frames=20")
    assert kind == "refer-kitti"
    assert recipe == discovery.maker("refer-kitti").Recipe(videos=6, frames=20)
    assert from_uri("made:orbench") == ("orbench", discovery.maker("orbench").Recipe())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("made:films", f"data: the kind after made: must be one of {', '.join(discovery.made_kinds())}, got 'films'"),
        ("made:", "must be one of .*, got ''"),
        ("made:refer-kitti?films=3", "made:refer-kitti takes videos, frames, width, expressions and seed, got films=3"),
        ("made:refer-kitti?kitti_labels=x", "takes .* and seed, got kitti_labels=x"),
        ("made:refer-kitti?videos=6.5", "got videos=6.5"),
        ("made:refer-kitti?videos=", "got videos=$"),
        ("made:orbench?changed=often", "got changed=often"),
        ("made:orbench?identities=3", "identities must be >= 10, got 3"),
    ],
)
def test_a_uri_that_can_not_be_followed_is_refused(uri: str, message: str):
    with pytest.raises(InputError, match=message):
        from_uri(uri)


def test_names_are_listed_as_one_says_them():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"], [])] == [
        "a",
        "a and b",
        "a, b and c",
        "nothing",
    ]
