"""What every pruner keeps to: each file of `pruners/` passes this unchanged."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refsweep.orchestration.search.discovery import pruner_class, pruner_names
from refsweep.orchestration.search.pruners.base import Pruner, PrunerSettings

Trials = dict[int, dict[int, float]]
every_pruner = pytest.mark.parametrize("name", pruner_names())
settings = st.builds(
    PrunerSettings,
    min_epochs=st.integers(1, 3),
    eta=st.integers(2, 4),
    max_epochs=st.integers(1, 10),
    better=st.sampled_from([1, -1]),
)


@st.composite
def histories(draw: st.DrawFn, least_epochs: int = 1, least_trials: int = 1) -> Trials:
    """Up to twelve trials that have come up to nine epochs far; whole numbers, so that some values are equal."""
    lengths = draw(st.lists(st.integers(least_epochs, 9), min_size=least_trials, max_size=12))
    return {n: {e: float(draw(st.integers(-3, 3))) for e in range(1, far + 1)} for n, far in enumerate(lengths)}


def made(name: str, settings: PrunerSettings) -> Pruner:
    return pruner_class(name)(settings)


def verdicts(pruner: Pruner, trials: Trials) -> dict[tuple[int, int], bool]:
    """Of every trial after every epoch that it has finished."""
    return {(n, e): pruner.should_prune(n, e, trials) for n, values in trials.items() for e in values}


def until(epoch: int, trials: Trials) -> Trials:
    """The trials as they were when none was further than an epoch."""
    return {n: {e: value for e, value in values.items() if e <= epoch} for n, values in trials.items()}


def test_every_file_is_found_and_holds_one_pruner():
    import refsweep.orchestration.search.pruners.base as base

    assert base.__file__ is not None
    files = {path.stem for path in Path(base.__file__).parent.glob("*.py")}
    assert set(pruner_names()) == files - {"base"}
    assert len({pruner_class(name) for name in pruner_names()}) == len(files) - 1 >= 4


@every_pruner
@given(settings, histories(), st.randoms(use_true_random=False))
def test_a_verdict_depends_on_the_values_alone_not_on_order_nor_on_earlier_questions(
    name: str, settings: PrunerSettings, trials: Trials, rng: random.Random
):
    before = copy.deepcopy(trials)
    pruner = made(name, settings)
    first = verdicts(pruner, trials)
    questions = rng.sample(sorted(first), len(first))
    shuffled = {n: dict(sorted(trials[n].items(), reverse=True)) for n in rng.sample(sorted(trials), len(trials))}
    assert {q: pruner.should_prune(*q, shuffled) for q in questions} == first
    assert verdicts(made(name, settings), trials) == first
    assert trials == before


@every_pruner
@given(settings, histories())
def test_what_happened_after_the_epoch_counts_for_nothing(name: str, settings: PrunerSettings, trials: Trials):
    pruner = made(name, settings)
    for (number, epoch), verdict in verdicts(pruner, trials).items():
        assert pruner.should_prune(number, epoch, until(epoch, trials)) == verdict


@every_pruner
@given(settings, histories())
def test_nothing_is_pruned_before_min_epochs_nor_at_the_last_epoch_nor_where_nothing_is_judged(
    name: str, settings: PrunerSettings, trials: Trials
):
    pruner = made(name, settings)
    ended = {epoch for (_, epoch), verdict in verdicts(pruner, trials).items() if verdict}
    assert all(settings.min_epochs <= epoch < settings.max_epochs for epoch in ended)
    assert all(pruner.judges(epoch) for epoch in ended)


@every_pruner
def test_the_worst_of_many_trials_ends_wherever_any_may(name: str):
    pruner = made(name, PrunerSettings(min_epochs=2, eta=2, max_epochs=5))
    trials = {n: {e: float(-n) for e in range(1, 9)} for n in range(40)}
    ended = {epoch for (_, epoch), verdict in verdicts(pruner, trials).items() if verdict}
    assert ended == {epoch for epoch in range(1, 9) if pruner.judges(epoch)}
    assert ended <= {2, 3, 4}


@every_pruner
@given(settings, histories())
def test_minimising_is_maximising_the_negative(name: str, settings: PrunerSettings, trials: Trials):
    mirrored = PrunerSettings(
        min_epochs=settings.min_epochs, eta=settings.eta, max_epochs=settings.max_epochs, better=-settings.better
    )
    negative = {n: {e: -v for e, v in values.items()} for n, values in trials.items()}
    assert verdicts(made(name, mirrored), negative) == verdicts(made(name, settings), trials)


@every_pruner
@given(settings, histories(), st.integers(0, 11), st.floats(0.01, 10))
def test_a_trial_that_is_strictly_best_at_every_epoch_is_never_pruned(
    name: str, settings: PrunerSettings, trials: Trials, number: int, margin: float
):
    better = settings.better
    trials[number] = {
        e: better * (max(better * v[e] for v in trials.values() if e in v) + margin)
        for e in range(1, max(len(v) for v in trials.values()) + 1)
    }
    pruner = made(name, settings)
    assert not [e for e in trials[number] if pruner.should_prune(number, e, trials)]


@every_pruner
@given(settings, histories(), st.integers(0, 40))
def test_the_first_trial_at_an_epoch_goes_on_however_bad(
    name: str, settings: PrunerSettings, trials: Trials, number: int
):
    epoch = max(map(len, trials.values())) + 1
    worst = dict.fromkeys(range(1, epoch + 1), -1e9 * settings.better)
    assert not made(name, settings).should_prune(number, epoch, {**trials, number: worst})


@every_pruner
@given(settings, histories(least_epochs=9, least_trials=6))
def test_an_equal_trial_that_comes_later_never_ends_an_earlier_one(name: str, settings: PrunerSettings, trials: Trials):
    """With six trials or more, so that one more is not what makes up enough for a verdict."""
    pruner = made(name, settings)
    for (number, epoch), verdict in verdicts(pruner, trials).items():
        with_twins = {**trials, **{100 + i: trials[number] for i in range(50)}}
        assert verdict or not pruner.should_prune(number, epoch, {**trials, 100: trials[number]})
        assert verdict or not pruner.should_prune(number, epoch, with_twins)


@every_pruner
def test_with_several_objectives_it_is_refused_in_words_or_ends_nothing(name: str):
    problems = made(name, PrunerSettings(objectives=2)).problems()
    assert problems in ([], [f"search.pruner: must be none with several objectives, got {name}"])
    if not problems:
        assert not any(made(name, PrunerSettings(max_epochs=9, objectives=2)).judges(epoch) for epoch in range(1, 10))


@every_pruner
def test_one_objective_is_no_problem(name: str):
    assert made(name, PrunerSettings()).problems() == []


def test_verdicts_are_the_same_in_a_process_of_its_own():
    trials = {n: {e: float((7 * n + 3 * e) % 11) for e in range(1, 1 + n % 9)} for n in range(40)}
    code = f"""
from refsweep.orchestration.search.discovery import pruner_class, pruner_names
from refsweep.orchestration.search.pruners.base import PrunerSettings
trials = {trials}
for name in pruner_names():
    pruner = pruner_class(name)(PrunerSettings(max_epochs=9))
    print(name, [(n, e) for n in trials for e in trials[n] if pruner.should_prune(n, e, trials)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = []
    for name in pruner_names():
        found = verdicts(made(name, PrunerSettings(max_epochs=9)), trials)
        lines.append(f"{name} {[question for question, verdict in found.items() if verdict]}")
    assert done.stdout.splitlines() == lines
    assert sum(len(line) > 20 for line in lines) >= 3, "those that end trials"
