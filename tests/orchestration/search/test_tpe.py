"""Our TPE answers as Optuna's does, bit for bit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from refsweep.orchestration.ledger.quiet import quiet
from refsweep.orchestration.search.asking import ask
from refsweep.orchestration.search.samplers.tpe import GroupedTpe, split
from refsweep.search_spaces import ikun

SpaceFunction = Callable[[Any], dict[str, Any]]


def flat(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -5.0, 5.0), "y": trial.suggest_float("y", 1e-6, 1.0, log=True)}


def kinds(trial: Any) -> dict[str, Any]:
    found = {
        "step": trial.suggest_float("step", 0.0, 1.0, step=0.125),
        "int": trial.suggest_int("int", -3, 9, step=3),
        "log": trial.suggest_int("log", 1, 4096, log=True),
        "mixed": trial.suggest_categorical("mixed", [True, 1.5, 0, None, "a"]),
        "one": trial.suggest_categorical("one", ["only"]),
    }
    if found["mixed"] is None:
        found["deep"] = trial.suggest_float("deep", 0.0, 1.0)
        if found["deep"] > 0.5:
            found["deeper"] = trial.suggest_int("deeper", 0, 1)
    return found


def growing(trial: Any) -> dict[str, Any]:
    """Later trials have parameters that earlier ones lack."""
    return {f"p{i}": trial.suggest_float(f"p{i}", 0.0, 1.0) for i in range(1 + trial.number // 6)}


def optunas(seed: int, startup: int, *, liar: bool) -> TPESampler:
    with quiet():
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=liar)


def ours(seed: int, startup: int, *, liar: bool) -> TPESampler:
    with quiet():
        return GroupedTpe(seed=seed, n_startup_trials=startup, constant_liar=liar)


def ended(trial: FrozenTrial, rng: random.Random, objectives: int) -> FrozenTrial:
    """A trial as some time later: complete, pruned, infeasible, failed or still running."""
    end = rng.choices(["complete", "pruned", "early", "infeasible", "fail", "running"], [8, 6, 1, 2, 1, 3])[0]
    epochs = 0 if end == "early" else rng.choice([1, 1, 3, 9])
    if objectives == 1:
        trial.intermediate_values = {e + 1: round(rng.random(), 1) for e in range(epochs)}  # some are equal
    if end == "running":
        return trial
    if end == "infeasible":
        trial.system_attrs = {**trial.system_attrs, "constraints:oom": float(rng.randint(0, 2))}
    states = {"complete": TrialState.COMPLETE, "fail": TrialState.FAIL}
    trial.state, trial.datetime_complete = states.get(end, TrialState.PRUNED), datetime.now()
    if end == "complete":
        trial.values = [round(rng.random(), 1) for _ in range(objectives)]
    return trial


def answers(
    directions: Sequence[StudyDirection], space: SpaceFunction, count: int, seed: int, *, liar: bool
) -> list[tuple[Any, Any]]:
    """What both say to each question of a sweep."""
    rng = random.Random(seed)
    trials: list[FrozenTrial] = []
    found = []
    for number in range(count):
        theirs, _ = ask(directions, trials, optunas(seed * 1000 + number, 4, liar=liar), space)
        template, _fields = ask(directions, trials, ours(seed * 1000 + number, 4, liar=liar), space)
        found.append(((theirs.params, theirs.system_attrs), (template.params, template.system_attrs)))
        template.number = template._trial_id = number
        trials.append(ended(template, rng, len(directions)))
    return found


@pytest.mark.parametrize("liar", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("space", [flat, kinds, growing, ikun.space])
def test_every_answer_is_optunas(space: SpaceFunction, seed: int, liar: bool):
    way = StudyDirection.MAXIMIZE if seed % 2 else StudyDirection.MINIMIZE
    found = answers([way], space, 40, seed, liar=liar)
    assert [a for a, _ in found] == [b for _, b in found]
    assert len({str(a[0]) for a, _ in found}) > 30


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("space", [flat, kinds])
def test_with_several_objectives_too(space: SpaceFunction, seed: int):
    found = answers([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE], space, 30, seed, liar=True)
    assert [a for a, _ in found] == [b for _, b in found]


def test_no_trial_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch):
    """The reason for it all: of Optuna's own work what grows with trials and groups is done once."""
    rng = random.Random(0)
    trials: list[FrozenTrial] = []
    for number in range(40):
        template, _ = ask([StudyDirection.MINIMIZE], trials, ours(number, 50, liar=True), kinds)
        template.number = template._trial_id = number
        trials.append(ended(template, rng, 1))
    looks: list[int] = []
    look = TPESampler._get_params

    def counted(self: TPESampler, trial: FrozenTrial, study: Any) -> dict[str, Any]:
        looks.append(trial.number)
        return look(self, trial, study)

    monkeypatch.setattr(TPESampler, "_get_params", counted)
    ask([StudyDirection.MINIMIZE], trials, ours(0, 4, liar=True), kinds)
    assert sorted(looks) == [t.number for t in trials if t.state != TrialState.FAIL]
    looks.clear()
    ask([StudyDirection.MINIMIZE], trials, optunas(0, 4, liar=True), kinds)
    assert len(looks) > 2 * len(trials)


@pytest.mark.parametrize("way", list(StudyDirection)[1:])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_are_those_that_optuna_finds_by_sorting_all(seed: int, way: StudyDirection):
    rng = random.Random(seed)
    with quiet():
        study = optuna.create_study(direction=way)
    trials = []
    for number in range(60):
        trial = optuna.trial.create_trial(state=TrialState.RUNNING)
        trial.number = number
        trial = ended(trial, rng, 1)
        if trial.intermediate_values and rng.random() < 0.1:
            trial.intermediate_values[99] = math.nan
        if trial.state == TrialState.COMPLETE and rng.random() < 0.2:
            trial.values = [rng.choice([0.0, -0.0, math.inf, -math.inf])]
        if trial.state != TrialState.FAIL:
            trials.append(trial)
    for count in (0, 1, 2, 5, 10, 20, 30, 45, 60, 80):
        assert split(study, trials, count) == _split_trials(study, trials, count)
