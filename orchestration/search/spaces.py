"""Search spaces as the orchestration sees them: found by name, described for people."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Iterable
from typing import Any

import optuna

from ...trainables import coercion, discovery
from ...trainables.training.config import bounds_of, choices_of
from ..ledger.quiet import quiet
from .asking import Space

TRIED = 200  # random trials that walk a space into its branches


def search_space(trainable: str) -> Any:
    """The module `search_spaces/<trainable>.py`. Raises InputError with the choices."""
    discovery.check_name(trainable)
    return importlib.import_module(f"...search_spaces.{trainable}", __package__)


def describe_space(trainable: str) -> list[dict[str, Any]]:
    """Every parameter of a search space, a row each: where it is searched, the published value, when it is searched,
    and what the Config field of its name allows ("" where there is none of that name)."""
    module = search_space(trainable)
    ranges, _ = _walk(trainable)
    rows = {name: (" or ".join(of), module.DEFAULTS.get(name), "training") for name, of in ranges.items()}
    rows |= {name: (json.dumps(values), None, "post hoc") for name, values in module.POSTHOC.items()}
    allowed = _allowed(discovery.load_config(trainable))
    return [
        {"name": name, "range": range_, "default": default, "searched": when, "allowed": allowed.get(name, "")}
        for name, (range_, default, when) in rows.items()
    ]


def describe_fields(trainable: str) -> list[dict[str, Any]]:
    """Every field of a trainable's Config that is no parameter of its search space, a row each: its default, what it
    allows, and whether the space sets it from its parameters. The spec's `fixed` may hold any of them."""
    ranges, given = _walk(trainable)
    searched = {*ranges, *search_space(trainable).POSTHOC}
    config = discovery.load_config(trainable)
    allowed = _allowed(config)
    return [
        {
            "name": field.name,
            "default": field.default,
            "allowed": allowed[field.name],
            "set by": "the space" if field.name in given else "",
        }
        for field in dataclasses.fields(config)
        if field.name not in searched
    ]


def given_fields(trainable: str) -> set[str]:
    """Names of the Config fields that a search space gives."""
    return _walk(trainable)[1]


@functools.cache
def _walk(trainable: str) -> tuple[dict[str, list[str]], set[str]]:
    """(ranges of every parameter, which may have another in another branch; names of the fields that the space gives),
    over random trials of a space."""
    space: Space = search_space(trainable).space
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ranges: dict[str, list[str]] = {}
    given: set[str] = set()
    for _ in range(TRIED):
        trial = study.ask()
        given |= set(space(trial))
        for name, distribution in trial.distributions.items():
            of_branch = range_in_words(distribution)
            if of_branch not in ranges.setdefault(name, []):
                ranges[name].append(of_branch)
    return ranges, given


def range_in_words(distribution: Any) -> str:
    """Where a parameter is searched: `0 .. 1 (log)`, or its choices."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return _listed(distribution.choices)
    return f"{distribution.low:g} .. {distribution.high:g}{' (log)' if distribution.log else ''}"


def _allowed(config: Any) -> dict[str, str]:
    """What each field of a Config allows: its bounds, its choices, or its type."""
    bounds, choices = bounds_of(config), choices_of(config)
    types = {field.name: coercion.expected(config, field.name) for field in dataclasses.fields(config)}
    ranges = {name: f"{low} .. {high}" for name, (low, high) in bounds.items()}
    return {**types, **ranges, **{name: _listed(values) for name, values in choices.items()}}


def _listed(values: Iterable[Any]) -> str:
    return " | ".join("null" if value is None else str(value) for value in values)
