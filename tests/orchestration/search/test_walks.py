"""The record of a search space: equal to what Optuna's own trials meet, and compared by parameter."""

from __future__ import annotations

import importlib
import time
from typing import Any

import optuna
import pytest
from optuna.distributions import distribution_to_json
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger.quiet import quiet
from refsweep.orchestration.search.asking import PinnedTrial
from refsweep.orchestration.search.walks import WALKS, changes, contradictions, space_record

FAMILIES = ["toy", "ikun", "t2i_reid", "mm_reid"]


def slowly(space: Any, fixed: dict[str, Any]) -> dict[str, list[str]]:
    """By Optuna's own trials."""
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, set[str]] = {}
    for _ in range(WALKS):
        trial = study.ask()
        space(PinnedTrial(trial, fixed))
        for name, kind in trial.distributions.items():
            seen.setdefault(name, set()).add(distribution_to_json(kind))
    return {name: sorted(kinds) for name, kinds in seen.items()}


def every_kind(trial: Any) -> dict[str, Any]:
    kind = trial.suggest_categorical("kind", ["a", None, 0.5, True])
    params = {
        "depth": trial.suggest_int("depth", 1, 9, step=2),
        "width": trial.suggest_int("width", 1, 1024, log=True),
        "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True),
        "share": trial.suggest_float("share", 0.0, 1.0, step=0.25),
        "again": trial.suggest_float("share", 0.0, 1.0, step=0.25),
    }
    assert 1 <= params["depth"] <= 9
    assert params["depth"] % 2
    assert 1 <= params["width"] <= 1024
    assert 1e-5 <= params["lr"] <= 1e-1
    assert params["share"] == params["again"]
    assert params["share"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    if kind == "a":
        params["height"] = trial.suggest_float("height", 0.0, 1.0)
    elif kind is None:
        params["height"] = trial.suggest_float("height", 5.0, 6.0)
    assert trial.params.get("kind", "a") == kind
    return params


@pytest.mark.parametrize("fixed", [{}, {"kind": "a", "lr": 0.05}])
def test_a_record_is_what_optunas_trials_meet(fixed: dict[str, Any]):
    found = space_record(every_kind, fixed)
    assert found == slowly(every_kind, fixed)
    assert ("kind" in found) == ("lr" in found) == (not fixed)
    assert len(found["height"]) == (1 if fixed else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_record_of_every_family_is_made_in_a_moment(family: str):
    space = importlib.import_module(f"refsweep.search_spaces.{family}").space
    space_record(space, {})
    began_s = time.process_time()
    found = space_record(space, {})
    assert time.process_time() - began_s < 0.3
    assert found
    assert len(str(found)) < 20_000


def test_a_change_is_named_with_parameter_old_and_new():
    def before(trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0), "mode": trial.suggest_categorical("mode", ["a", "b"])}

    def after(trial: Any) -> dict[str, Any]:
        return {"z": trial.suggest_int("z", 1, 8, log=True), "mode": trial.suggest_categorical("mode", ["a", "b", "c"])}

    old, new = space_record(before, {}), space_record(after, {})
    assert changes(old, old) == []
    assert changes(old, new) == [
        "mode: one of ['a', 'b'] -> one of ['a', 'b', 'c']",
        "x: number 0 .. 1 -> not searched",
        "z: not searched -> integer 1 .. 8 (log)",
    ]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = study.ask()
    before(asked)
    assert contradictions(study.get_trials(), old) == []
    assert contradictions(study.get_trials(), new) == [
        "mode: one of ['a', 'b'] -> one of ['a', 'b', 'c']",
        "x: number 0 .. 1 -> not searched",
    ]


def test_a_space_that_refuses_is_bad_input():
    with pytest.raises(InputError, match=r"the search space can't be sampled: .*low <= high"):
        space_record(lambda trial: {"x": trial.suggest_float("x", 1.0, 0.0)}, {})
