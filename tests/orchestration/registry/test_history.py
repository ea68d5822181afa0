"""The history of a champion, worked out by hand."""

from __future__ import annotations

import json

import pytest
from refsweep.orchestration.registry.history import PREFIX, Kind, Move, Phase, champions, moves_of, target
from refsweep.orchestration.registry.names import ModelName, UnknownModelError, is_place

P, R, F = Kind.PROMOTE, Kind.ROLLBACK, Kind.FOUND


def past(*steps: tuple[str | None, str, Kind]) -> list[str]:
    return champions([Move.new(source, to, kind, "x").closed(Phase.DONE) for source, to, kind in steps])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ""),
        ([(None, "1", P), ("1", "2", P), ("2", "3", P)], "123"),
        ([(None, "1", P), ("1", "2", P), ("2", "3", P), ("3", "2", R)], "12"),
        ([(None, "1", P), ("1", "2", P), ("2", "3", P), ("3", "2", R), ("2", "1", R)], "1"),
        ([(None, "1", P), ("1", "2", P), ("2", "3", P), ("3", "1", R)], "1"),
        ([(None, "1", P), ("1", "2", P), ("2", "1", R), ("1", "3", P)], "13"),
        ([(None, "1", P), ("1", "2", P), ("2", "1", P)], "121"),  # promoted again: rollback returns to 2
        ([(None, "1", P), ("1", "2", P), ("2", "1", R), ("1", "2", R)], "12"),  # --to one that was left
        ([("4", "7", F), ("7", "8", P)], "478"),  # an earlier version's `previous`
        ([(None, "1", P), (None, "1", P), (None, "1", P)], "1"),  # three at once
    ],
)
def test_the_champions_before_the_present_one(steps: list[tuple[str | None, str, Kind]], expected: str):
    assert past(*steps) == list(expected)


@pytest.mark.parametrize(
    ("before", "champion", "existing", "expected"),
    [
        ("123", "3", "123", "2"),
        ("123", "3", "13", "1"),  # 2 was deleted
        ("123", None, "12", "2"),  # the champion was
        ("121", "1", "12", "2"),
        ("131", "1", "1", None),  # not back to itself
        ("1", "1", "1", None),
        ("", None, "1", None),
    ],
)
def test_a_rollback_goes_to_the_newest_that_exists(
    before: str, champion: str | None, existing: str, expected: str | None
):
    assert target(list(before), champion, set(existing)) == expected


def test_moves_are_read_from_tags_in_order_and_what_is_none_is_left_out():
    one, two = Move.new(None, "1", P, "x", sweep_id="a", term=3), Move.new("1", "2", R, "x").closed(Phase.VOID)
    tags = {two.key: two.as_text(), one.key: one.as_text(), "owner": "me", f"{PREFIX}1": "edited", f"{PREFIX}2": "[]"}
    tags[f"{PREFIX}3"] = json.dumps({"from": "x", "to": "y"})
    assert moves_of(tags) == [one, two]


def test_a_move_counts_only_when_it_is_done():
    moves = [Move.new(None, "1", P, "x"), Move.new(None, "2", P, "x").closed(Phase.VOID)]
    assert champions(moves) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("toy", ModelName("toy")),
        ("toy@previous", ModelName("toy", None, "previous")),
        ("toy/3", ModelName("toy", "3")),
        ("models:/toy/03", ModelName("toy", "3")),
        ("models:/toy@champion", ModelName("toy")),
    ],
)
def test_every_form_of_a_name(text: str, expected: ModelName):
    assert ModelName.parse(text) == expected
    assert not is_place(text)


@pytest.mark.parametrize("text", ["", "toy/", "toy@", "toy@a/3", "toy/3@a", "toy/x", "toy/²", "toy:3"])
def test_another_form_is_refused(text: str):
    with pytest.raises(UnknownModelError, match="a model is named MODEL, MODEL@ALIAS or MODEL/VERSION, got"):
        ModelName.parse(text)


@pytest.mark.parametrize("text", ["/a/b", "./a", "..", "~/a", "s3://bucket/a", "out/package", "a/b/3", "file:///a"])
def test_a_place_is_told_from_a_name(text: str):
    assert is_place(text)
