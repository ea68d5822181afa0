"""All that is wrong with a spec's search is said at once, each problem with its path and rule."""

from __future__ import annotations

from typing import Any

import pytest
from refsweep.orchestration.search.check import problems, settings_problems, space_problems
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import Objective, Search, SweepSpec
from refsweep.search_spaces import toy

LOSS, HEIGHT = Objective(metric="loss", mode="min"), Objective(metric="height", mode="max")
NO_GRID = "search: grid must be given with sampler grid, and with no other"
EMPTY_GRID = "search: grid must hold at least one value of every parameter"


def spec_of(objectives: list[Objective] | None = None, fixed: dict[str, Any] | None = None, **search: Any) -> SweepSpec:
    """A toy sweep's spec in which these fields may be wrong: reading one would refuse it."""
    right = make_spec({"name": "s", "trainable": "toy", "data": "none", "objective": {"metric": "loss", "mode": "min"}})
    given = {"search": Search(**search), "fixed": fixed or {}}
    return right.model_copy(update=given | ({} if objectives is None else {"objective": objectives}))


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, []),
        ({"sampler": "grid", "grid": {"x": [0.0]}}, []),
        ({"sampler": "grid"}, [NO_GRID]),
        ({"grid": {"x": [0.0]}}, [NO_GRID]),
        ({"grid": {}}, [NO_GRID]),
        ({"sampler": "grid", "grid": {}}, [EMPTY_GRID]),
        ({"sampler": "grid", "grid": {"x": [0.0], "y": []}}, [EMPTY_GRID]),
        (
            {"sampler": "bo", "pruner": "asah", "grid": {"x": [0.0]}},
            [
                "search.pruner: must be one of 'asha', 'hyperband', 'median' or 'none', got 'asah'",
                "search.sampler: must be one of 'cmaes', 'gp', 'grid', 'nsga2', 'qmc', 'random' or 'tpe', got 'bo'",
            ],
        ),
    ],
)
def test_each_problem_of_sampler_pruner_and_grid_has_its_path_rule_and_value(
    search: dict[str, Any], expected: list[str]
):
    assert problems(spec_of(**search)) == settings_problems(spec_of(**search)) == expected


def test_problems_of_several_objectives_are_said_together():
    found = problems(spec_of([LOSS, HEIGHT], sampler="cmaes", pruner="median", grid={"x": [0.0]}))
    assert [line.partition(":")[0] for line in found] == ["search.pruner", "search", "search.sampler"]
    assert found[0].endswith("must be none with several objectives, got median")
    assert problems(spec_of([LOSS, HEIGHT], sampler="nsga2", pruner="none")) == []
    assert problems(spec_of([])) == ["objective: must name at least one metric"]


def test_a_space_that_gives_no_config_with_what_is_fixed_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    assert problems(spec_of(fixed={"x": 1.0, "epochs": 3})) == []
    for field, start in (("nonsense", "nonsense is no field of toy's Config: "), ("x", "x must be in -5..5, got 6.")):
        monkeypatch.setattr(toy, "space", lambda trial, field=field: {field: trial.suggest_float(field, 6, 7)})
        [wrong] = problems(spec_of())
        assert wrong.startswith(f"fixed: {start}")


def test_a_space_that_stumbles_over_what_is_fixed_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy, "space", lambda trial: {1.0: {"x": 0.0}}[trial.suggest_float("x", 0, 1)])
    assert problems(spec_of(fixed={"x": 1.0})) == []
    [wrong] = problems(spec_of(fixed={"x": 2.0}))
    assert wrong == "fixed: the search space of toy can't use these values: KeyError(2.0)"


@pytest.mark.parametrize("fixed", [{"z": 1}, {"epochs": "six"}])
def test_what_is_wrong_with_the_fixed_values_by_themselves_is_not_said_again(fixed: dict[str, Any]):
    assert space_problems(spec_of(fixed=fixed)) == []
    assert space_problems(spec_of().model_copy(update={"trainable": "gpt"})) == []
