"""Search spaces give valid Configs, and hold only what matters to each."""

from __future__ import annotations

import dataclasses
import importlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import pytest
from refsweep.orchestration.ledger.quiet import quiet
from refsweep.orchestration.search.asking import PinnedTrial
from refsweep.search_spaces import ikun
from refsweep.trainables import coercion, discovery
from refsweep.trainables.towers.sizes import CLIP

NAMES = discovery.names()
SMALL = [{"weights": None, "tower": "conv-tiny"}, {"weights": None, "tower": "ViT-tiny"}]
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [("ikun", fixed) for fixed in SMALL]


def space_of(name: str) -> types.ModuleType:
    return importlib.import_module(f"refsweep.search_spaces.{name}")


def samples(space: Any, fixed: Mapping[str, Any], count: int = 200) -> Iterator[tuple[optuna.Trial, dict[str, Any]]]:
    """Random trials and the fields they give."""
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(count):
            trial = study.ask()
            yield trial, space(PinnedTrial(trial, fixed))


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_has_a_search_space(name: str):
    module = space_of(name)
    assert callable(module.space)
    assert isinstance(module.DEFAULTS, dict)
    assert isinstance(module.POSTHOC, dict)


@pytest.mark.parametrize(("name", "fixed"), CASES)
def test_what_is_sampled_makes_a_valid_config(name: str, fixed: Mapping[str, Any]):
    module, space = discovery.load(name), space_of(name)
    seen = set()
    for trial, fields in samples(space.space, fixed):
        merged = {**space.POSTHOC, **fields, **fixed}
        config = coercion.make_config(module.Config, merged)
        for field, value in merged.items():
            assert getattr(config, field) == value
        assert not set(trial.params) & set(fixed)
        seen.add(repr(trial.params))
    assert len(seen) > 20


@pytest.mark.parametrize("name", NAMES)
def test_every_default_is_a_parameter_or_a_field(name: str):
    space, fields = space_of(name), {f.name for f in dataclasses.fields(discovery.load(name).Config)}
    parameters = {p for trial, _ in samples(space.space, {}) for p in trial.params}
    assert set(space.DEFAULTS) <= parameters | fields
    assert set(space.POSTHOC) <= fields


@pytest.mark.parametrize("name", NAMES)
def test_defaults_lie_in_the_space(name: str):
    space = space_of(name)
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(space.DEFAULTS)
        trial = study.ask()
        fields = space.space(trial)
    for parameter, distribution in trial.distributions.items():
        if parameter in space.DEFAULTS:
            assert distribution._contains(distribution.to_internal_repr(space.DEFAULTS[parameter]))
    config = coercion.make_config(discovery.load_config(name), {**space.POSTHOC, **fields})
    for field in set(space.DEFAULTS) & {f.name for f in dataclasses.fields(config)}:
        assert getattr(config, field) == space.DEFAULTS[field]


def bounds(trial: optuna.Trial, parameter: str) -> tuple[float, float]:
    distribution = trial.distributions[parameter]
    assert isinstance(distribution, optuna.distributions.FloatDistribution)
    assert distribution.log
    return distribution.low, distribution.high


@pytest.mark.parametrize(
    ("fixed", "expected"), [({}, (1e-6, 1e-4)), ({"weights": "w.pt"}, (1e-6, 1e-4)), ({"weights": None}, (3e-4, 5e-3))]
)
def test_learning_rates_depend_on_the_weights(fixed: Mapping[str, Any], expected: tuple[float, float]):
    for trial, fields in samples(ikun.space, fixed, 20):
        assert bounds(trial, "lr") == expected
        assert expected[0] <= fields["lr"] <= expected[1]


def test_pretrained_towers_move_slower_than_what_is_new_and_random_ones_alike():
    for trial, fields in samples(ikun.space, {}):
        assert 0.05 * fields["lr"] <= fields["tower_lr"] <= fields["lr"]
        assert fields["tower_lr"] == pytest.approx(fields["lr"] * trial.params["tower_lr_ratio"])
        assert fields["freeze_text"] is True
    for trial, fields in samples(ikun.space, {"weights": None}):
        assert fields["tower_lr"] == fields["lr"]
        assert fields["freeze_text"] is False
        assert "tower_lr_ratio" not in trial.params


@pytest.mark.parametrize("tower", CLIP)
def test_low_rank_adaptation_is_for_vits_only(tower: str):
    for trial, fields in samples(ikun.space, {"tower": tower}, 20):
        is_vit = tower.startswith("ViT")
        assert ("lora_rank" in fields) == ("lora_rank" in trial.params) == is_vit


def test_low_rank_adaptation_follows_the_tower_that_is_sampled():
    towers = set()
    for _, fields in samples(ikun.space, {}):
        towers.add(fields["tower"])
        assert ("lora_rank" in fields) == fields["tower"].startswith("ViT")
    assert towers == {"RN50", "ViT-B-32", "ViT-B-16"}


OF_MODE: dict[str | None, set[str]] = {
    "cascade": {"guidance_start", "text_tokens"},
    "cross_correlation": {"guidance_start", "dropout"},
    "text_first": {"guidance_start", "dropout"},
    None: set(),
}


def test_each_mode_has_the_parameters_that_matter_to_it():
    of_text = {"guidance_start", "text_tokens", "dropout"}
    modes = set()
    for trial, fields in samples(ikun.space, {}):
        modes.add(fields["kum_mode"])
        assert of_text & set(fields) == of_text & set(trial.params) == OF_MODE[fields["kum_mode"]]
    assert modes == set(OF_MODE)


@pytest.mark.parametrize("mode", OF_MODE)
def test_a_mode_that_is_held_has_only_its_own_parameters(mode: str | None):
    for trial, fields in samples(ikun.space, {"kum_mode": mode}, 10):
        assert fields["kum_mode"] == mode
        assert {"guidance_start", "text_tokens", "dropout"} & set(trial.params) == OF_MODE[mode]
