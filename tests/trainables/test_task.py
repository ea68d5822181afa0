"""Trainables by name, and Configs from plain values."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from refsweep.datasets.problems import InputError
from refsweep.trainables import coercion, discovery
from refsweep.trainables.ikun import task as ikun
from refsweep.trainables.toy import task as toy


def test_names_are_the_modules_that_train():
    names = discovery.names()
    assert {"ikun", "toy"} <= set(names)
    assert names == sorted(names)
    for name in names:
        module = discovery.load(name)
        assert module.__name__ == f"refsweep.trainables.{name}.task"
        assert dataclasses.is_dataclass(module.Config)
        assert {"Task", "open_data", "check_data", "METRICS"} <= set(dir(module))


@pytest.mark.parametrize("name", ["ikunn", "task", "loop", "", "../toy", "referring"])
def test_an_unknown_trainable_names_the_choices(name: str):
    with pytest.raises(InputError) as caught:
        discovery.load(name)
    assert str(caught.value) == f"trainable must be one of {', '.join(discovery.names())}, got {name!r}"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, True),
        (3.0, int, False),
        (True, int, False),
        ("3", int, False),
        (3, float, True),
        (0.5, float, True),
        (False, float, False),
        ("1e-5", float, False),
        (None, float, False),
        (True, bool, True),
        (1, bool, False),
        ("a", str, True),
        (None, str, False),
        (None, str | None, True),
        ("a", str | None, True),
        (1, str | None, False),
        (None, float | None, True),
        (2, float | None, True),
        (True, float | None, False),
        ("x", Literal["x", "y"], True),
        ("z", Literal["x", "y"], False),
        (None, Literal["x", "y"] | None, True),
        ("z", Literal["x", "y"] | None, False),
        (["x"], Literal["x", "y"], False),
        ((1.0, 2.0), tuple[float, ...], True),
        ((1, 2), tuple[float, ...], True),
        ((), tuple[float, ...], True),
        ([1.0, 2.0], tuple[float, ...], False),
        (1.0, tuple[float, ...], False),
        (("a", "b"), tuple[float, ...], False),
        ((True,), tuple[float, ...], False),
        ((1.5,), tuple[int, ...], False),
    ],
)
def test_a_value_fits_its_declared_type(value: Any, hint: Any, expected: bool):
    assert coercion.fits(value, hint) is expected


def test_every_default_fits_its_own_declaration():
    for module in map(discovery.load, discovery.names()):
        fields = {f.name: f.default for f in dataclasses.fields(module.Config)}
        assert coercion.make_config(module.Config, fields) == module.Config()


def test_every_field_of_a_wrong_name_or_type_is_reported_at_once():
    bad = {"gama": 1.0, "lr": "1e-5", "batch": 2.5, "geometry": 1, "kum_mode": "concat", "tower": None}
    with pytest.raises(InputError) as caught:
        coercion.make_config(ikun.Config, {**bad, "epochs": 3})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("gama is no field of ikun's Config: ")
    assert "gamma" in lines[0]
    assert lines[1:] == [
        "lr must be a number, got '1e-5'",
        "batch must be a whole number, got 2.5",
        "geometry must be true or false, got 1",
        "kum_mode must be one of cascade, cross_correlation, text_first or null, got 'concat'",
        "tower must be text, got None",
    ]


@pytest.mark.parametrize("value", [3, "8", None])
def test_a_list_of_numbers_that_is_none_is_reported(value: Any):
    with pytest.raises(InputError, match=r"calibration_a must be .*got"):
        coercion.make_config(ikun.Config, {"calibration_a": value})


def test_a_value_out_of_range_is_reported_with_its_rule():
    with pytest.raises(InputError, match=r"^gamma must be in 0\.\.10, got -1\.0$"):
        coercion.make_config(ikun.Config, {"gamma": -1.0})


def test_every_field_out_of_range_is_reported_at_once():
    with pytest.raises(InputError) as caught:
        coercion.make_config(ikun.Config, {"gamma": -1.0, "rho": 200.0})
    assert "gamma must be in 0..10, got -1.0" in str(caught.value)
    assert "rho must be in 0..100, got 200.0" in str(caught.value)


def test_whole_numbers_become_floats_where_floats_are_declared_and_only_there():
    config = coercion.make_config(ikun.Config, {"lr": 1, "rho": 2, "clip_norm": 5, "batch": 4, "lora_rank": 0})
    for name, kind in (("lr", float), ("rho", float), ("clip_norm", float), ("batch", int), ("lora_rank", int)):
        assert type(getattr(config, name)) is kind, name
    assert config == coercion.make_config(
        ikun.Config, {"lr": 1.0, "rho": 2.0, "clip_norm": 5.0, "batch": 4, "lora_rank": 0}
    )


def test_lists_become_tuples_and_a_config_is_hashable():
    fields = coercion.plain({"calibration_a": [0, 2.5], "epochs": 3, "tower": "RN50", "rho": None})
    assert fields == {"calibration_a": (0, 2.5), "epochs": 3, "tower": "RN50", "rho": None}
    config: Any = coercion.make_config(ikun.Config, fields)
    assert config.calibration_a == (0.0, 2.5)
    assert hash(config) == hash(coercion.make_config(ikun.Config, fields))


def test_fields_that_are_not_given_keep_their_defaults():
    assert coercion.make_config(toy.Config, {}) == toy.Config()
    assert coercion.make_config(toy.Config, {"x": 2.0}) == dataclasses.replace(toy.Config(), x=2.0)
