"""A new sweep is refused for what would have no effect or a silent one; one that has begun with it goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.search import grid_check
from refsweep.orchestration.search.check import new_problems, warnings
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.sweep import check_spec, find_sweep, open_sweep
from refsweep.search_spaces import toy

LEAST: dict[str, Any] = {
    "name": "s",
    "trainable": "toy",
    "data": "none",
    "objective": {"metric": "loss", "mode": "min"},
    "search": {"pruner": "none"},
}


def found(**fields: Any) -> list[str]:
    return new_problems(make_spec({**LEAST, **fields}))


def of_grid(grid: dict[str, Any], **fixed: Any) -> list[str]:
    return found(search={"sampler": "grid", "pruner": "none", "grid": grid}, fixed=fixed)


@pytest.mark.parametrize(
    ("grid", "fixed", "expected"),
    [
        ({"x": [0, 1.5], "y": [-5, 5]}, {}, []),
        ({"x": [0.5]}, {"y": 1.0}, []),
        ({"x": [0.5]}, {}, ["search.grid: must hold every parameter that is not fixed, y are missing"]),
        (
            {"x": [0.5], "y": [1.0], "z": [1, 2]},
            {},
            ["search.grid.z: must be a parameter of toy's search space: x, y"],
        ),
        ({"x": [0.5], "y": [1.0, 2.0]}, {"y": 1.0}, ["search.grid.y: must not be fixed as well, to 1.0"]),
        ({"x": [1, 1.0, 2, 2], "y": [0]}, {}, [
            "search.grid.x: must hold each value once, got 1.0 again",
            "search.grid.x: must hold each value once, got 2 again",
        ]),
        ({"x": [7.0, -9, 1], "y": ["1", True, None]}, {}, [
            "search.grid.x: must lie in -5 .. 5, got 7.0",
            "search.grid.x: must lie in -5 .. 5, got -9",
            "search.grid.y: must lie in -5 .. 5, got '1'",
            "search.grid.y: must lie in -5 .. 5, got True",
            "search.grid.y: must lie in -5 .. 5, got None",
        ]),
        ({"x": [9.0, 9.0], "q": [1]}, {}, [
            "search.grid.x: must lie in -5 .. 5, got 9.0",
            "search.grid.x: must hold each value once, got 9.0 again",
            "search.grid.q: must be a parameter of toy's search space: x, y",
            "search.grid: must hold every parameter that is not fixed, y are missing",
        ]),
    ],
)  # fmt: skip
def test_everything_wrong_with_a_grid_is_said_by_name_at_once(
    grid: dict[str, Any], fixed: dict[str, Any], expected: list[str]
):
    assert of_grid(grid, **fixed) == expected


def branching(trial: Any) -> dict[str, Any]:
    if trial.suggest_categorical("mode", ["a", "b"]) == "a":
        return {"x": trial.suggest_float("x", 0, 1), "epochs": trial.suggest_int("epochs", 2, 8, step=2)}
    return {"x": trial.suggest_float("x", 1, 2), "y": trial.suggest_float("y", 0, 1)}


def test_a_grid_needs_what_its_own_branches_ask_for_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy, "space", branching)
    assert of_grid({"mode": ["a"], "x": [0.5], "epochs": [2, 4]}) == []
    assert of_grid({"mode": ["b"], "x": [1.5], "y": [0]}) == []
    assert of_grid({"mode": ["a", "b"], "x": [0.5], "epochs": [3]}) == [
        "search.grid.x: must lie in 1 .. 2, got 0.5",
        "search.grid.epochs: must lie in 2 .. 8, got 3",
        "search.grid: must hold every parameter that is not fixed, y are missing",
    ]
    assert of_grid({"mode": ["c"], "x": [0.5], "epochs": [2]}) == ["search.grid.mode: must lie in a | b, got 'c'"]


def test_cells_that_give_no_config_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy, "space", lambda trial: {"x": trial.suggest_float("x", 0, 9)})
    assert of_grid({"x": [1.0, 8.0]}) == ["search.grid: x must be in -5..5, got 8.0"]


def test_every_value_of_a_grid_too_large_to_walk_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grid_check, "WALKED", 50)
    values = [i / 200 for i in range(200)]
    assert of_grid({"x": [*values, 6.0], "y": [*values, -6.0]}) == [
        "search.grid.x: must lie in -5 .. 5, got 6.0",
        "search.grid.y: must lie in -5 .. 5, got -6.0",
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"search": {"pruner": "asha", "min_epochs": 6}},
            ["search.min_epochs: must be below the 6 epochs of a trial with pruner asha, got 6"],
        ),
        ({"search": {"pruner": "none", "min_epochs": 6}}, []),
        ({"search": {"pruner": "asha", "min_epochs": 5}}, []),
        ({"search": {"pruner": "asha"}, "fixed": {"epochs": 1}}, []),
        (
            {"objective": [{"metric": "loss", "mode": "min"}, {"metric": "loss", "mode": "max"}]},
            ["objective: must name each metric once, got loss again"],
        ),
        (
            {"budget": {"gpu_hours": 1.0}, "resources": {"gpus_per_worker": 0.0}},
            ["budget.gpu_hours: must be null where trials use no GPU: limit cpu_hours or wall_hours"],
        ),
        ({"budget": {"gpu_hours": 1.0}}, []),
        ({"trainable": "gpt", "search": {"sampler": "grid", "grid": {"x": [9]}}}, []),
        ({"fixed": {"z": 1}, "search": {"sampler": "grid", "grid": {"x": [9]}}}, []),
    ],
)
def test_settings_without_the_effect_that_they_name_are_refused(fields: dict[str, Any], expected: list[str]):
    assert found(**fields) == expected


@pytest.mark.parametrize(
    ("search", "fixed", "warned"),
    [
        ({"pruner": "asha"}, {"epochs": 1}, True),
        ({"pruner": "asha"}, {"epochs": 4, "evaluate_every": 4}, True),
        ({"pruner": "asha"}, {"epochs": 4, "evaluate_every": 3}, False),
        ({"pruner": "hyperband", "min_epochs": 3}, {"epochs": 4, "evaluate_every": 5}, True),
        ({"pruner": "median"}, {"epochs": 1}, True),
        ({"pruner": "none"}, {"epochs": 1}, False),
        ({"pruner": "asha"}, {"epochs": 4}, False),
    ],
)
def test_a_pruner_that_can_end_no_trial_is_warned_of(
    search: dict[str, Any], fixed: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
):
    content = {**LEAST, "search": search, "fixed": fixed}
    assert bool(warnings(make_spec(content))) is warned
    with caplog.at_level(logging.WARNING):
        check_spec(content)
    assert ("ends no trial before its end" in caplog.text) is warned


def test_all_of_them_are_said_with_the_others_at_once():
    content = {**LEAST, "name": "made", "search": {"sampler": "grid", "grid": {"q": [1], "x": [9]}, "min_epochs": 9}}
    with pytest.raises(InputError) as refused:
        check_spec({**content, "tracking": "None", "stream": "x"})
    for part in (
        "name:",
        "tracking:",
        "stream:",
        "search.min_epochs:",
        "search.grid.q:",
        "search.grid.x:",
        "y are mis",
    ):
        assert part in str(refused.value)


def test_gpu_hours_on_machines_without_a_gpu_are_refused_before_the_first_trial(tmp_path: Path):
    content = {**LEAST, "storage": str(tmp_path), "tracking": "none", "budget": {"gpu_hours": 1.0}}
    sweep = open_sweep(check_spec(content))
    with pytest.raises(InputError, match=r"budget\.gpu_hours: must be null where trials use no GPU"):
        sweep.run(InlineBackend())
    assert not (tmp_path / "ledger.db").exists()


def test_a_sweep_that_began_with_what_is_refused_now_goes_on(tmp_path: Path):
    search = {"sampler": "grid", "pruner": "none", "grid": {"x": [0.0, 1.0], "y": [0.0], "q": [1, 2]}, "trials": 2}
    content = {**LEAST, "storage": str(tmp_path), "tracking": "none", "search": search, "fixed": {"epochs": 1}}
    with pytest.raises(InputError, match=r"search\.grid\.q"):
        check_spec(content)
    with open_sweep(make_spec(content)) as sweep:
        assert sweep.run(InlineBackend()).state == "finished"
    with find_sweep(sweep.spec.ledger_url, "s") as sweep:
        sweep.change(["search.trials=3"])
        assert sweep.run(InlineBackend()).state == "finished"
        assert len(sweep.ledger.trials) == 3
