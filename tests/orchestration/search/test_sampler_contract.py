"""What every sampler keeps to: each file of `samplers/` passes this unchanged."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.search.asking import PinnedTrial, propose
from refsweep.orchestration.search.discovery import sampler_class, sampler_names
from refsweep.orchestration.search.samplers.base import Sampler, SamplerSettings

every_sampler = pytest.mark.parametrize("name", sampler_names())
MINIMISE = [StudyDirection.MINIMIZE]
COUNT = 10  # trials of a history, of which 3 are random
GRID: dict[str, list[Any]] = {
    "lr": [1e-4, 1e-3, 1e-2],
    "width": [8, 16, 64],
    "mode": ["a", None, 0.5],
    "depth": [1, 5],
    "rate": [0.25],
}


def space(trial: Any) -> dict[str, Any]:
    """Numbers on both scales, whole ones, choices of several kinds, and parameters that depend on a choice."""
    fields = {
        "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True),
        "width": trial.suggest_int("width", 8, 64, step=8),
        "mode": trial.suggest_categorical("mode", ["a", None, 0.5]),
    }
    if fields["mode"] == "a":
        fields["depth"] = trial.suggest_int("depth", 1, 8)
    elif fields["mode"] is None:
        fields["rate"] = trial.suggest_float("rate", 0.0, 0.5)
    return fields


def made(name: str, **settings: Any) -> Sampler:
    """The sampler, with a grid if it can't be without."""
    kind = sampler_class(name)
    return kind(SamplerSettings(startup=3, grid=GRID if kind.takes_grid else None, **settings))


def ended(trial: FrozenTrial, number: int, objectives: int = 1) -> FrozenTrial:
    """A template as its trial stands some time later: complete, pruned, infeasible, failed or still running."""
    rng = random.Random(number)
    trial.number = trial._trial_id = number
    end = ["complete", "pruned", "complete", "infeasible", "failed", "complete", "running", "pruned at once"][
        number % 8
    ]
    if objectives == 1 and end != "pruned at once":
        trial.intermediate_values = {epoch: rng.random() for epoch in range(1, 2 + number % 3)}
    last = [list(trial.intermediate_values.values())[-1]] if trial.intermediate_values else None
    if end == "running":
        return trial
    trial.datetime_complete = datetime.now()
    trial.state = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(end, TrialState.PRUNED)
    if end == "complete":
        trial.values = last or [rng.random() for _ in range(objectives)]
    elif end in ("pruned", "infeasible"):
        trial.values = last
    if end == "infeasible":
        trial.system_attrs = {**trial.system_attrs, "constraints:out_of_memory": 1.0}
    return trial


def history(name: str, directions: Sequence[StudyDirection] = MINIMISE, count: int = COUNT) -> list[FrozenTrial]:
    trials: list[FrozenTrial] = []
    for number in range(count):
        sampler, shown = made(name, objectives=len(directions)), copy.deepcopy(trials)
        template, _ = propose(sampler, number, directions, shown, space)
        trials.append(ended(template, number, len(directions)))
    return trials


@pytest.fixture(scope="module")
def histories() -> dict[str, str]:
    """A sweep so far of every sampler, as JSON."""
    return {name: as_json(history(name)) for name in sampler_names()}


def answer(name: str, number: int, trials: Sequence[FrozenTrial], **settings: Any) -> dict[str, Any]:
    """What is stored of the next trial, as plain values."""
    template, fields = propose(made(name, **settings), number, MINIMISE, trials, space)
    plain = {"params": template.params, "attributes": template.system_attrs, "fields": fields}
    return dict(json.loads(json.dumps(plain)))


def as_json(trials: Sequence[FrozenTrial]) -> str:
    return json.dumps(
        [
            {
                "state": t.state.name,
                "values": t.values,
                "params": t.params,
                "distributions": {n: distribution_to_json(d) for n, d in t.distributions.items()},
                "system_attrs": t.system_attrs,
                "intermediate_values": t.intermediate_values,
            }
            for t in trials
        ]
    )


def from_json(text: str) -> list[FrozenTrial]:
    """Trials made anew, from nothing but their plain values."""
    trials = [
        create_trial(
            state=TrialState[t["state"]],
            values=t["values"],
            params=t["params"],
            distributions={n: json_to_distribution(d) for n, d in t["distributions"].items()},
            system_attrs=t["system_attrs"],
            intermediate_values={int(epoch): value for epoch, value in t["intermediate_values"].items()},
        )
        for t in json.loads(text)
    ]
    for number, trial in enumerate(trials):
        trial.number = trial._trial_id = number
    return trials


def test_every_file_is_found_and_holds_one_sampler():
    import refsweep.orchestration.search.samplers.base as base

    assert base.__file__ is not None
    files = {path.stem for path in Path(base.__file__).parent.glob("*.py")}
    assert set(sampler_names()) == files - {"base"}
    assert len({sampler_class(name) for name in sampler_names()}) == len(files) - 1 >= 7


def test_the_histories_hold_trials_of_every_kind(histories: dict[str, str]):
    for text in histories.values():
        trials = from_json(text)
        assert {t.state.name for t in trials} == {"COMPLETE", "PRUNED", "FAIL", "RUNNING"}
        assert {t.params["mode"] for t in trials} == {"a", None, 0.5}
        pruned = [t for t in trials if t.state == TrialState.PRUNED]
        assert {t.value is None for t in pruned} == {True, False}
        assert any(t.constraints for t in pruned)


def test_a_process_of_its_own_gives_the_same_answers(histories: dict[str, str]):
    code = f"""
import json, sys
from {__name__} import answer, from_json
for name, trials in json.loads(sys.stdin.read()).items():
    print(json.dumps(answer(name, {COUNT}, from_json(trials))))
"""
    question = json.dumps(histories)
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], input=question, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    assert theirs == [answer(name, COUNT, from_json(text)) for name, text in histories.items()]


@every_sampler
def test_a_history_read_back_from_the_ledger_gives_the_same_answer(
    name: str, histories: dict[str, str], tmp_path: Path
):
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.create(url, "s", ["min"], {"name": "s"})
    for number, trial in enumerate(from_json(histories[name])):
        template = copy.copy(trial)
        template.state, template.values, template.datetime_complete = TrialState.RUNNING, None, None
        template.intermediate_values = {}
        template.system_attrs = {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints")}
        ledger.create_trial(template)
        for epoch, value in trial.intermediate_values.items():
            ledger.report(number, epoch, [value])
        if trial.constraints:
            ledger.violate(number, "out_of_memory")
        if trial.state.is_finished():
            ledger.tell(number, trial.state, trial.values)
    ledger.close()
    opened = Ledger.open(url, "s")
    assert json.loads(as_json(opened.trials)) == json.loads(histories[name])
    assert answer(name, COUNT, opened.trials) == answer(name, COUNT, from_json(histories[name]))
    opened.close()


@every_sampler
def test_the_trials_that_it_is_shown_stay_as_they_are(name: str, histories: dict[str, str]):
    shown, before = from_json(histories[name]), from_json(histories[name])
    for trial, same in zip(shown, before, strict=True):
        same.datetime_start, same.datetime_complete = trial.datetime_start, trial.datetime_complete
    first = answer(name, COUNT, shown, slots=4)
    assert [vars(t) for t in shown] == [vars(t) for t in before]
    assert answer(name, COUNT, shown, slots=4) == first


@every_sampler
def test_one_sampler_may_be_asked_for_many_trials_in_any_order(name: str, histories: dict[str, str]):
    sampler, trials = made(name), from_json(histories[name])
    for number in (4, 6, 4, 0):
        template, _ = propose(sampler, number, MINIMISE, trials[:number], space)
        assert template.params == trials[number].params


@every_sampler
def test_another_number_or_seed_has_another_answer(name: str):
    first = answer(name, 0, [])
    assert answer(name, 1, []) != first
    assert answer(name, 0, [], seed=1) != first


@every_sampler
def test_a_proposal_lies_in_the_space_and_holds_what_its_branch_needs(name: str, histories: dict[str, str]):
    template, fields = propose(made(name), COUNT, MINIMISE, from_json(histories[name]), space)
    assert template.state == TrialState.RUNNING
    assert template.params == fields
    for trial in [*from_json(histories[name]), template]:
        for parameter, kind in trial.distributions.items():
            assert kind._contains(kind.to_internal_repr(trial.params[parameter]))
        walked = FixedTrial(trial.params)
        assert space(walked) == trial.params
        assert walked.distributions == trial.distributions


@every_sampler
def test_what_is_pinned_is_neither_suggested_nor_stored(name: str, histories: dict[str, str]):
    fixed = {"mode": "a", "lr": 0.5}  # outside the space: a person may
    template, fields = propose(
        made(name), COUNT, MINIMISE, from_json(histories[name]), lambda trial: space(PinnedTrial(trial, fixed))
    )
    assert set(template.params) == set(template.distributions) == {"width", "depth"}
    assert fields == {**fixed, **template.params}


@every_sampler
def test_several_objectives_are_refused_in_words_or_sampled(name: str):
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    problems = made(name, objectives=2).problems()
    if problems:
        assert len(problems) == 1
        assert problems[0].startswith(f"search.sampler: {name} takes one objective; ")
        return
    one, two = history(name, directions, 5), history(name, directions, 5)
    assert [t.params for t in one] == [t.params for t in two]
    assert len({str(t.params) for t in one}) >= 4  # cells of a grid may differ in what their branch does not need


@every_sampler
def test_a_grid_is_asked_for_or_refused(name: str):
    assert made(name).problems() == []
    kind = sampler_class(name)
    other = kind(SamplerSettings(grid=None if kind.takes_grid else GRID))
    assert other.problems() == ["search: grid must be given with sampler grid, and with no other"]


def test_no_sampler_imports_what_is_heavy_before_it_samples():
    code = """
import sys
from refsweep.orchestration.search.discovery import sampler_class, sampler_names
from refsweep.orchestration.search.samplers.base import SamplerSettings
for name in sampler_names():
    sampler_class(name)(SamplerSettings()).problems()
print(sorted({"torch", "scipy", "cmaes", "ray", "mlflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
