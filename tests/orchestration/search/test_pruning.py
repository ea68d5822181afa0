"""Verdicts worked out by hand, and what must hold of any values: pruners are pure and never end the best trial."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from refsweep.orchestration.search.pruning import (
    PrunerName,
    Pruning,
    _asha,
    _hyperband,
    bracket,
    judges,
    rungs,
    should_prune,
)

Trials = dict[int, dict[int, float]]
KINDS: tuple[PrunerName, ...] = ("asha", "hyperband", "median")
ASHA = Pruning(kind="asha", min_epochs=1, eta=3, max_epochs=9)
HYPERBAND = Pruning(kind="hyperband", min_epochs=1, eta=3, max_epochs=27)
MEDIAN = Pruning(kind="median", min_epochs=1, max_epochs=9)


def at(epoch: int, *values: float) -> Trials:
    """Trials 0, 1, ... with one value each, at the same epoch."""
    return {number: {epoch: value} for number, value in enumerate(values)}


def pruned(how: Pruning, trials: Trials, epoch: int) -> set[int]:
    return {n for n in trials if epoch in trials[n] and should_prune(how, n, epoch, trials)}


@st.composite
def histories(draw: st.DrawFn) -> Trials:
    """Up to twelve trials that have come up to nine epochs far; whole numbers, so that some values are equal."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    return {n: {e: float(draw(st.integers(-3, 3))) for e in range(1, far + 1)} for n, far in enumerate(lengths)}


hows = st.builds(
    Pruning,
    kind=st.sampled_from(KINDS),
    min_epochs=st.integers(1, 3),
    eta=st.integers(2, 4),
    max_epochs=st.integers(1, 10),
    better=st.sampled_from([1, -1]),
)


@pytest.mark.parametrize(
    ("min_epochs", "max_epochs", "eta", "expected"),
    [(1, 9, 3, [1, 3]), (1, 10, 3, [1, 3, 9]), (2, 30, 4, [2, 8]), (1, 17, 2, [1, 2, 4, 8, 16]), (5, 5, 3, [])],
)
def test_rungs_are_min_times_powers_of_eta_below_max(min_epochs: int, max_epochs: int, eta: int, expected: list[int]):
    assert rungs(min_epochs, max_epochs, eta) == expected


def test_asha_judges_each_arrival_by_those_already_there():
    arriving = [0.5, 0.4, 0.6, 0.55, 0.3, 0.58, 0.59]
    # arrivals so far: 1 2 3 4 5 6 7; places at the rung: 1 1 1 1 1 2 2
    goes_on = [True, False, True, False, False, True, True]
    for count, expected in enumerate(goes_on, 1):
        assert should_prune(ASHA, count - 1, 1, at(1, *arriving[:count])) is not expected, f"arrival {count}"


def test_asha_lets_the_first_trial_at_a_rung_go_on_however_bad():
    assert not should_prune(ASHA, 7, 3, {7: {1: 0.0, 3: -1e9}, 8: {1: 5.0}})


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_keeps_one_in_eta(eta: int):
    how = Pruning(kind="asha", eta=eta, max_epochs=9)
    values = [5.0, 11.0, 0.0, 8.0, 3.0, 10.0, 1.0, 7.0, 2.0, 9.0, 4.0, 6.0]
    kept = {n for n, value in enumerate(values) if value >= 12 - 12 // eta}
    assert set(range(12)) - pruned(how, at(1, *values), 1) == kept


def test_asha_prefers_the_earlier_of_equal_trials():
    assert pruned(ASHA, at(1, 0.5, 0.5), 1) == {1}
    assert pruned(ASHA, at(1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5), 1) == {2, 3, 4, 5}


def test_better_says_whether_larger_values_win():
    values = at(1, 0.1, 0.2, 0.3)
    assert pruned(Pruning(max_epochs=9, better=1), values, 1) == {0, 1}
    assert pruned(Pruning(max_epochs=9, better=-1), values, 1) == {1, 2}


def test_asha_prunes_at_rungs_only():
    trials = {0: dict.fromkeys(range(1, 9), 1.0), 1: dict.fromkeys(range(1, 9), 0.0)}
    assert [e for e in range(1, 9) if should_prune(ASHA, 1, e, trials)] == [1, 3]


@given(hows, histories())
def test_nothing_is_pruned_before_min_epochs_or_from_max_epochs_on(how: Pruning, trials: Trials):
    for number, values in trials.items():
        for epoch in values:
            if epoch < how.min_epochs or epoch >= how.max_epochs:
                assert not should_prune(how, number, epoch, trials)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_prunable_epoch_is_min_epochs_and_the_last_is_before_max(kind: PrunerName):
    """The bounds of the test above are tight: the worst of many trials ends as soon as it may."""
    trials = {n: {e: float(-n) for e in range(1, 9)} for n in range(40)}
    how = Pruning(kind=kind, min_epochs=2, eta=2, max_epochs=5)
    epochs = {e for n in trials for e in trials[n] if should_prune(how, n, e, trials)}
    assert min(epochs) == 2
    assert max(epochs) == 4


@given(hows, histories(), st.randoms(use_true_random=False))
def test_a_verdict_follows_from_the_values_alone(how: Pruning, trials: Trials, rng: random.Random):
    before = copy.deepcopy(trials)
    questions = [(n, e) for n, values in trials.items() for e in values]
    first = {q: should_prune(how, *q, trials) for q in questions}
    rng.shuffle(questions)
    shuffled = {n: dict(sorted(trials[n].items(), reverse=True)) for n in rng.sample(sorted(trials), len(trials))}
    assert {q: should_prune(how, *q, shuffled) for q in questions} == first
    assert trials == before


@given(hows, histories())
def test_minimising_is_maximising_the_negative(how: Pruning, trials: Trials):
    mirrored = Pruning(
        kind=how.kind, min_epochs=how.min_epochs, eta=how.eta, max_epochs=how.max_epochs, better=-how.better
    )
    negative = {n: {e: -v for e, v in values.items()} for n, values in trials.items()}
    for number, values in trials.items():
        for epoch in values:
            assert should_prune(how, number, epoch, trials) == should_prune(mirrored, number, epoch, negative)


@given(hows, histories(), st.integers(0, 11), st.floats(0.01, 10))
def test_a_trial_that_is_strictly_best_at_every_epoch_is_never_pruned(
    how: Pruning, trials: Trials, number: int, margin: float
):
    trials[number] = {
        e: how.better * (max(how.better * v[e] for v in trials.values() if e in v) + margin)
        for e in range(1, max(len(v) for v in trials.values()) + 1)
    }
    assert not [e for e in trials[number] if should_prune(how, number, e, trials)]


@given(histories(), st.sampled_from([1, -1]))
def test_none_never_prunes(trials: Trials, better: int):
    how = Pruning(kind="none", max_epochs=9, better=better)
    assert not any(pruned(how, trials, e) for e in range(1, 10))


def test_hyperband_deals_each_bracket_its_share_in_every_round():
    # a full round of R = 27, eta = 3 starts 27, 12, 6 and 4 trials (arXiv 1603.06560, algorithm 1)
    for start in (0, 49, 98):
        dealt = Counter(bracket(HYPERBAND, n) for n in range(start, start + 49))
        assert dealt == {0: 27, 1: 12, 2: 6, 3: 4}


def test_hyperband_does_not_start_one_bracket_after_the_other():
    dealt = [bracket(HYPERBAND, n) for n in range(49)]
    assert set(dealt[:13]) == {0, 1, 2, 3}
    assert set(dealt[-13:]) == {0, 1, 2, 3}
    assert 11 <= dealt[:25].count(0) <= 16


@pytest.mark.parametrize(
    ("min_epochs", "max_epochs", "eta", "count"),
    [(1, 1, 3, 1), (1, 2, 3, 1), (1, 3, 3, 2), (1, 243, 3, 6), (1, 242, 3, 5), (1, 64, 2, 7), (2, 18, 3, 3)],
)
def test_hyperband_has_a_bracket_for_every_power_of_eta_up_to_max(
    min_epochs: int, max_epochs: int, eta: int, count: int
):
    how = Pruning(kind="hyperband", min_epochs=min_epochs, max_epochs=max_epochs, eta=eta)
    assert {bracket(how, n) for n in range(450)} == set(range(count))


def in_bracket(how: Pruning, mine: int, trials: int = 8) -> list[int]:
    return list(itertools.islice((n for n in itertools.count() if bracket(how, n) == mine), trials))


@pytest.mark.parametrize(("mine", "expected"), [(0, [1, 3, 9]), (1, [3, 9]), (2, [9]), (3, [])])
def test_hyperbands_brackets_halve_from_later_and_later_and_the_last_never(mine: int, expected: list[int]):
    trials = {n: {e: float(-n) for e in range(1, 28)} for n in in_bracket(HYPERBAND, mine)}
    assert [e for e in range(1, 28) if pruned(HYPERBAND, trials, e)] == expected


@given(st.integers(1, 4), st.integers(1, 30), st.integers(2, 4))
def test_hyperbands_last_bracket_is_never_pruned(min_epochs: int, more: int, eta: int):
    how = Pruning(kind="hyperband", min_epochs=min_epochs, max_epochs=min_epochs + more, eta=eta)
    last = max(bracket(how, n) for n in range(90))
    trials = {n: {e: float(-n) for e in range(1, how.max_epochs + 1)} for n in in_bracket(how, last)}
    assert not [e for e in range(1, how.max_epochs + 1) if pruned(how, trials, e)]


def test_hyperband_compares_within_a_bracket_only():
    mine, others = in_bracket(HYPERBAND, 0, 3), in_bracket(HYPERBAND, 1, 3)
    within = {n: {1: float(n)} for n in mine}
    assert pruned(HYPERBAND, within, 1) == set(mine[:2])
    for theirs in (1e6, -1e6):
        together = {**within, **{n: {1: theirs, 3: theirs} for n in others}}
        assert pruned(HYPERBAND, together, 1) == set(mine[:2])


def test_the_median_is_of_the_others_means_up_to_the_epoch():
    others = {0: {1: 0.0, 2: 2.0, 3: 99.0}, 1: {1: 2.0, 2: 2.0}, 2: {1: 2.0, 2: 4.0}, 3: {1: 4.0, 2: 4.0}}
    # means up to epoch 2: 1, 2, 3, 4, so the median is 2.5
    assert should_prune(MEDIAN, 4, 2, {**others, 4: {1: 0.0, 2: 2.4}})
    assert not should_prune(MEDIAN, 4, 2, {**others, 4: {1: 0.0, 2: 2.5}})


def test_the_median_pruner_judges_a_trial_by_its_best_epoch_so_far():
    others = {n: {1: 2.0, 2: 2.0, 3: 2.0} for n in range(4)}
    assert not should_prune(MEDIAN, 4, 2, {**others, 4: {1: 3.0, 2: 0.0}})
    assert should_prune(MEDIAN, 4, 2, {**others, 4: {1: 1.0, 2: 0.0, 3: 9.0}})


def test_the_median_pruner_needs_four_others_that_came_as_far():
    three = {n: {1: 5.0, 2: 5.0} for n in range(3)}
    bad = {9: {1: 0.0, 2: 0.0}}
    assert not should_prune(MEDIAN, 9, 2, {**three, **bad})
    assert not should_prune(MEDIAN, 9, 2, {**three, 3: {1: 5.0}, **bad})
    assert should_prune(MEDIAN, 9, 2, {**three, 3: {1: 5.0, 2: 5.0}, **bad})


@given(hows, histories())
def test_where_nothing_is_judged_the_bare_rules_would_not_have_pruned(how: Pruning, trials: Trials):
    assume(how.min_epochs <= how.max_epochs)  # Hyperband has no bracket otherwise
    for number, values in trials.items():
        for epoch in values:
            if how.kind != "median" and not judges(how, epoch):
                rule = _hyperband if how.kind == "hyperband" else partial(_asha, first=how.min_epochs)
                assert not rule(how, number, epoch, trials)
