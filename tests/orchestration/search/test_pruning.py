"""Verdicts of each pruner worked out by hand; what holds of all of them is in `test_pruner_contract.py`."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refsweep.orchestration.search.discovery import make_pruner
from refsweep.orchestration.search.pruners.asha import Asha, best_at, rungs
from refsweep.orchestration.search.pruners.base import Pruner, PrunerSettings
from refsweep.orchestration.search.pruners.hyperband import Hyperband, deal
from refsweep.orchestration.search.pruners.median import Median
from refsweep.orchestration.spec.read import make_spec

Trials = dict[int, dict[int, float]]
ASHA = Asha(PrunerSettings(min_epochs=1, eta=3, max_epochs=9))
HYPERBAND = Hyperband(PrunerSettings(min_epochs=1, eta=3, max_epochs=27))
MEDIAN = Median(PrunerSettings(min_epochs=1, max_epochs=9))


def at(epoch: int, *values: float) -> Trials:
    """Trials 0, 1, ... with one value each, at the same epoch."""
    return {number: {epoch: value} for number, value in enumerate(values)}


def pruned(pruner: Pruner, trials: Trials, epoch: int) -> set[int]:
    return {n for n in trials if epoch in trials[n] and pruner.should_prune(n, epoch, trials)}


def bracket(pruner: Hyperband, number: int) -> int:
    order = deal(pruner.settings)
    return order[number % len(order)]


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
        assert ASHA.should_prune(count - 1, 1, at(1, *arriving[:count])) is not expected, f"arrival {count}"


def test_asha_lets_the_first_trial_at_a_rung_go_on_however_bad():
    assert not ASHA.should_prune(7, 3, {7: {1: 0.0, 3: -1e9}, 8: {1: 5.0}})


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_keeps_one_in_eta(eta: int):
    pruner = Asha(PrunerSettings(eta=eta, max_epochs=9))
    values = [5.0, 11.0, 0.0, 8.0, 3.0, 10.0, 1.0, 7.0, 2.0, 9.0, 4.0, 6.0]
    kept = {n for n, value in enumerate(values) if value >= 12 - 12 // eta}
    assert set(range(12)) - pruned(pruner, at(1, *values), 1) == kept


def test_asha_prefers_the_earlier_of_equal_trials():
    assert pruned(ASHA, at(1, 0.5, 0.5), 1) == {1}
    assert pruned(ASHA, at(1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5), 1) == {2, 3, 4, 5}


def test_better_says_whether_larger_values_win():
    values = at(1, 0.1, 0.2, 0.3)
    assert pruned(Asha(PrunerSettings(max_epochs=9, better=1)), values, 1) == {0, 1}
    assert pruned(Asha(PrunerSettings(max_epochs=9, better=-1)), values, 1) == {1, 2}


def test_asha_prunes_at_rungs_only():
    trials = {0: dict.fromkeys(range(1, 9), 1.0), 1: dict.fromkeys(range(1, 9), 0.0)}
    assert [e for e in range(1, 9) if ASHA.should_prune(1, e, trials)] == [1, 3]


def halving(pruner: type[Pruner], **settings: Any) -> Pruner:
    return pruner(PrunerSettings(**{"min_epochs": 1, "eta": 3, "max_epochs": 27, **settings}))


@pytest.mark.parametrize(
    ("every", "max_epochs", "expected"),
    [
        (1, 27, [1, 3, 9]),
        (2, 27, [2, 4, 10]),
        (4, 27, [4, 12]),
        (10, 27, [10]),
        (26, 27, [26]),
        (27, 27, []),
        (3, 4, [3]),
    ],
)
@pytest.mark.parametrize("pruner", [Asha, Hyperband])
def test_halving_judges_at_the_first_evaluated_epoch_at_or_past_each_rung(
    pruner: type[Pruner], every: int, max_epochs: int, expected: list[int]
):
    made = halving(pruner, max_epochs=max_epochs, evaluate_every=every)
    evaluated = [e for e in range(1, max_epochs + 1) if e % every == 0 or e == max_epochs]
    assert [e for e in range(1, max_epochs + 1) if made.judges(e)] == expected
    trials = {n: {e: float(-n) for e in evaluated} for n in range(60)}
    ended = {e for n in trials for e in evaluated if made.should_prune(n, e, trials)}
    assert ended == set(expected), "the worst of many end wherever any may"
    shared = halving(pruner, max_epochs=max_epochs, evaluate_every=None)
    assert {e for n in trials for e in evaluated if shared.should_prune(n, e, trials)} == ended


def test_a_rung_is_judged_once():
    made = halving(Asha, evaluate_every=None)
    trials = {0: {2: 9.0, 4: 9.0, 6: 9.0}, 1: {2: 0.0, 4: 0.0, 6: 0.0}}
    assert [e for e in (2, 4, 6) if made.should_prune(1, e, trials)] == [2, 4], "rungs 1 and 3; 6 lies past both"


def test_at_a_rung_each_trial_counts_with_its_first_evaluated_epoch_there_and_not_with_a_later_one():
    made = halving(Asha, evaluate_every=None)
    # at rung 3: trial 0 stands at its value of epoch 3, trial 1 at that of epoch 4, whatever they come to later
    trials = {0: {3: 1.0, 6: 100.0}, 1: {2: 50.0, 4: 2.0, 8: -100.0}}
    assert not made.should_prune(1, 4, trials)
    assert made.should_prune(1, 4, {**trials, 0: {3: 3.0, 6: -100.0}})
    # one that has passed the rung without having been evaluated there by then does not count yet
    assert not made.should_prune(1, 4, {**trials, 0: {2: 99.0, 5: 99.0}})


@given(
    st.sampled_from([Asha, Hyperband]),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(-3, 3)), min_size=1, max_size=10),
    st.integers(1, 3),
)
def test_where_trials_are_evaluated_differently_verdicts_keep_to_the_contract(
    pruner: type[Pruner], shapes: list[tuple[int, int, int]], min_epochs: int
):
    made = halving(pruner, evaluate_every=None, min_epochs=min_epochs, max_epochs=13, eta=2)
    trials = {
        n: {e: float(value - e % 3) for e in range(every, far + 1, every)}
        for n, (every, far, value) in enumerate(shapes)
    }
    for number, values in trials.items():
        for epoch in values:
            verdict = made.should_prune(number, epoch, trials)
            past = {n: {e: v for e, v in theirs.items() if e <= epoch} for n, theirs in trials.items()}
            assert made.should_prune(number, epoch, past) is verdict
            assert not verdict or (made.judges(epoch) and min_epochs <= epoch < 13)
            best = {**trials, number: dict.fromkeys(values, 1000000000.0)}
            assert not made.should_prune(number, epoch, best)


@pytest.mark.parametrize(
    ("fixed", "expected"), [({}, 1), ({"evaluate_every": 2}, 2), ({"evaluate_every": 2, "epochs": 9}, 2)]
)
def test_a_pruner_knows_from_the_spec_how_often_trials_are_evaluated(fixed: dict[str, int], expected: int):
    content = {
        "name": "s",
        "trainable": "toy",
        "data": "none",
        "objective": {"metric": "loss", "mode": "min"},
        "fixed": fixed,
    }
    assert make_pruner(make_spec(content), 9).settings.evaluate_every == expected


@pytest.mark.parametrize(("pruner", "expected"), [(Asha, {2, 4}), (Hyperband, {2, 4}), (Median, {2, 3, 4})])
def test_the_worst_of_many_trials_ends_from_min_epochs_on_and_before_the_last(pruner: type[Pruner], expected: set[int]):
    trials = {n: {e: float(-n) for e in range(1, 9)} for n in range(40)}
    made = pruner(PrunerSettings(min_epochs=2, eta=2, max_epochs=5))
    assert {e for e in range(1, 9) if pruned(made, trials, e)} == expected


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
    pruner = Hyperband(PrunerSettings(min_epochs=min_epochs, max_epochs=max_epochs, eta=eta))
    assert {bracket(pruner, n) for n in range(450)} == set(range(count))


def in_bracket(pruner: Hyperband, mine: int, trials: int = 8) -> list[int]:
    return list(itertools.islice((n for n in itertools.count() if bracket(pruner, n) == mine), trials))


@pytest.mark.parametrize(("mine", "expected"), [(0, [1, 3, 9]), (1, [3, 9]), (2, [9]), (3, [])])
def test_hyperbands_brackets_halve_from_later_and_later_and_the_last_never(mine: int, expected: list[int]):
    trials = {n: {e: float(-n) for e in range(1, 28)} for n in in_bracket(HYPERBAND, mine)}
    assert [e for e in range(1, 28) if pruned(HYPERBAND, trials, e)] == expected


@given(st.integers(1, 4), st.integers(1, 30), st.integers(2, 4))
def test_hyperbands_last_bracket_is_never_pruned(min_epochs: int, more: int, eta: int):
    pruner = Hyperband(PrunerSettings(min_epochs=min_epochs, max_epochs=min_epochs + more, eta=eta))
    last = max(bracket(pruner, n) for n in range(90))
    trials = {n: {e: float(-n) for e in range(1, pruner.settings.max_epochs + 1)} for n in in_bracket(pruner, last)}
    assert not [e for e in range(1, pruner.settings.max_epochs + 1) if pruned(pruner, trials, e)]


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
    assert MEDIAN.should_prune(4, 2, {**others, 4: {1: 0.0, 2: 2.4}})
    assert not MEDIAN.should_prune(4, 2, {**others, 4: {1: 0.0, 2: 2.5}})


def test_the_median_pruner_judges_a_trial_by_its_best_epoch_so_far():
    others = {n: {1: 2.0, 2: 2.0, 3: 2.0} for n in range(4)}
    assert not MEDIAN.should_prune(4, 2, {**others, 4: {1: 3.0, 2: 0.0}})
    assert MEDIAN.should_prune(4, 2, {**others, 4: {1: 1.0, 2: 0.0, 3: 9.0}})


def test_the_median_pruner_needs_four_others_that_came_as_far():
    three = {n: {1: 5.0, 2: 5.0} for n in range(3)}
    bad = {9: {1: 0.0, 2: 0.0}}
    assert not MEDIAN.should_prune(9, 2, {**three, **bad})
    assert not MEDIAN.should_prune(9, 2, {**three, 3: {1: 5.0}, **bad})
    assert MEDIAN.should_prune(9, 2, {**three, 3: {1: 5.0, 2: 5.0}, **bad})


def test_hyperband_deals_in_an_order_that_stays():
    """Of a running sweep no trial may change its bracket."""
    assert [bracket(HYPERBAND, n) for n in range(16)] == [0, 1, 0, 3, 0, 0, 2, 0, 1, 0, 2, 0, 0, 1, 0, 1]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(2, 4), st.sampled_from([1, -1]))
def test_the_best_at_an_epoch_are_those_that_at_most_so_many_beat(values: list[int], eta: int, better: int):
    def beats(a: int, b: int) -> bool:
        return better * values[a] > better * values[b] or (values[a] == values[b] and a < b)

    keep = max(1, len(values) // eta)
    expected = {n for n in range(len(values)) if sum(beats(m, n) for m in range(len(values))) < keep}
    assert set(best_at(1, {**at(1, *map(float, values)), 99: {2: 9.0}}, eta, better)) == expected


@pytest.mark.parametrize(("mode", "better"), [("min", -1), ("max", 1)])
def test_a_spec_and_the_epochs_of_its_trials_say_how_to_prune(mode: str, better: int):
    search = {"pruner": "hyperband", "min_epochs": 2, "eta": 2}
    objective = {"metric": "loss", "mode": mode}
    spec = make_spec({"name": "s", "trainable": "toy", "data": "none", "objective": objective, "search": search})
    made = make_pruner(spec, epochs=30)
    assert isinstance(made, Hyperband)
    assert made.settings == PrunerSettings(min_epochs=2, eta=2, max_epochs=30, better=better)


def test_by_default_pruning_is_asha_from_the_first_epoch_on():
    content = {"name": "s", "trainable": "toy", "data": "none", "objective": {"metric": "loss", "mode": "min"}}
    made = make_pruner(make_spec(content), epochs=6)
    assert isinstance(made, Asha)
    assert made.settings == PrunerSettings(min_epochs=1, eta=3, max_epochs=6, better=-1)
