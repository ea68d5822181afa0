"""Whose seconds were whose: attempts, driver runs and histories made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from refsweep.orchestration.ledger.accounts import ACCOUNTS, account, credited
from refsweep.orchestration.ledger.forecast import planned_trials
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.status import budget_status
from refsweep.orchestration.ledger.usage import Attempt, DriverRun, attempts_of, driver_runs
from refsweep.tests.earlier import unpack


def attempt(began_s: float, ended_s: float | None, **more: Any) -> Attempt:
    return Attempt(began_s=began_s, ended_s=ended_s, gpus=0, cpus=1, **more)


def epochs(*ends_and_seconds: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"time_ms": end_s * 1000, "seconds": seconds} for end_s, seconds in ends_and_seconds]


def kept_and_lost(attempts: list[Attempt], history: list[dict[str, Any]], **how: bool) -> list[tuple[Any, Any]]:
    found = credited(attempts, history, **{"inherited": False, "broken": False, **how})
    return [(a.useful_s, a.lost_s) for a in found]


# -- credited ----------------------------------------------------------------------------------------------


def test_an_epoch_that_went_on_from_a_checkpoint_counts_for_both_attempts():
    older = [attempt(0, 50), attempt(100, 120)]
    history = epochs((30, 25), (120, 35))
    assert kept_and_lost(older, history) == [(40, 0), (20, 0)], "15 s of the second epoch were trained before the stop"
    told = [attempt(0, 50, stopped=True, training_began_s=5), attempt(100, 120, stopped=False, training_began_s=104)]
    assert kept_and_lost(told, history) == [(44, 0), (16, 0)], "the second attempt took four seconds to start"


def test_a_stop_in_an_epoch_that_was_stopped_before_is_shared_by_three():
    parts = [
        attempt(0, 20, stopped=True, training_began_s=10),
        attempt(30, 45, stopped=True, training_began_s=35),
        attempt(50, 70, stopped=False, training_began_s=60),
    ]
    assert kept_and_lost(parts, epochs((70, 30))) == [(10, 0), (10, 0), (10, 0)]


def test_an_attempt_that_lost_what_it_trained_gets_nothing_of_the_epoch_that_was_done_again():
    parts = [
        attempt(0, 20, stopped=True, training_began_s=10),
        attempt(30, 45, stopped=False, training_began_s=35),
        attempt(50, 70, stopped=False, training_began_s=60),
    ]
    assert kept_and_lost(parts, epochs((70, 20))) == [(10, 0), (0, 10), (10, 0)]


def test_the_wait_for_the_first_batch_is_start_up_and_makes_no_lost_second_useful():
    parts = [
        attempt(0, 40, stopped=False, training_began_s=10),
        attempt(50, 90, stopped=False, training_began_s=60),
    ]
    # the loop began to count at 15 of its first epoch, and at 55 after the crash at 40
    assert kept_and_lost(parts, epochs((30, 25), (90, 35))) == [(20, 10), (30, 0)]


def test_epochs_of_the_trial_that_a_successor_goes_on_from_are_not_its_own():
    assert kept_and_lost([attempt(100, 160)], epochs((30, 25), (150, 35)), inherited=True) == [(35, 0)]


def test_an_epoch_whose_host_has_a_late_clock_belongs_to_the_first_attempt():
    one = attempt(100, 160, stopped=False, training_began_s=95)
    assert kept_and_lost([one], epochs((99, 20), (120, 20))) == [(40, 0)]


def test_the_last_attempt_has_lost_what_it_trained_only_if_no_verdict_ended_it():
    one = [attempt(0, 50, stopped=False, training_began_s=10)]
    assert kept_and_lost(one, epochs((30, 20))) == [(20, 0)], "the rest was for saving and reporting"
    assert kept_and_lost(one, epochs((30, 20)), broken=True) == [(20, 20)]
    assert kept_and_lost(one, [], broken=True) == [(0, 40)]
    assert kept_and_lost([attempt(0, 50, stopped=False)], [], broken=True) == [(0, 0)], "nobody knows of any training"


def test_what_was_trained_before_a_stop_is_lost_when_the_trial_fails_before_that_epochs_end():
    parts = [
        attempt(0, 50, stopped=True, training_began_s=10),
        attempt(60, 80, stopped=False, training_began_s=65),
    ]
    assert kept_and_lost(parts, epochs((30, 20)), broken=True) == [(20, 20), (0, 15)]


# -- accounts ----------------------------------------------------------------------------------------------


def trial(state: TrialState, attempts: list[Attempt], **system: Any) -> tuple[FrozenTrial, list[Attempt]]:
    return create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, system_attrs=system), attempts


@pytest.mark.parametrize(
    ("state", "system", "wanted"),
    [
        (TrialState.COMPLETE, {}, {"useful": 30, "repeated": 5, "startup": 25}),
        (TrialState.PRUNED, {}, {"pruned": 31, "repeated": 5, "startup": 24}),
        (TrialState.PRUNED, {"constraints:out_of_memory": 1.0}, {"failed": 36, "startup": 24}),
        (TrialState.FAIL, {}, {"failed": 36, "startup": 24}),
        (TrialState.RUNNING, {}, {"unfinished": 60}),
    ],
)
def test_how_a_trial_ended_says_what_its_training_was_for(
    state: TrialState, system: dict[str, Any], wanted: dict[str, float]
):
    last_lost_s = 0 if state == TrialState.COMPLETE else 1  # nobody did it again
    attempts = [attempt(0, 45, useful_s=20, lost_s=5), attempt(50, 65, useful_s=10, lost_s=last_lost_s)]
    known = account([], [trial(state, attempts, **system)])
    assert {name: s for name in ACCOUNTS if (s := getattr(known, f"{name}_s"))} == wanted
    assert known.offered_s == 60


def test_slots_wait_only_when_no_trial_has_them_and_never_in_the_negative():
    run = DriverRun(began_s=0, seen_s=100, slots=2, gpus=0, cpus=1, rooms=((40, 1), (60, 3), (200, 9)))
    lives = [attempt(10, 70), attempt(30, 50), attempt(200, 250)]
    known = account([run], [trial(TrialState.RUNNING, lives)])
    # 10 s x 2, 20 s x 1, 10 s x 0 | 10 s x 0 (two where one fits), 10 s x 0 | 10 s x 2, 30 s x 3
    assert known.waiting_s == 20 + 20 + 20 + 90
    assert known.wall_s == 100


# -- what is stored ----------------------------------------------------------------------------------------


def test_entries_are_read_as_they_were_written_with_and_without_newer_keys():
    old = {"began_s": 1.0, "ended_s": None, "useful_s": None, "gpus": 0.0, "cpus": 1.0}
    new = {**old, "training_began_s": 2.0, "stopped": True, "lost_s": 0.0}
    stored = create_trial(state=TrialState.RUNNING, user_attrs={"usage": [old, new]})
    assert [a.as_json() for a in attempts_of(stored)] == [old, new]
    runs: list[dict[str, Any]] = [{"began_s": 1.0, "seen_s": 2.0, "slots": 3, "gpus": 0.0, "cpus": 1.0}]
    runs += [{**runs[0], "rooms": [[1.5, 2]]}]
    assert [r.as_json() for r in driver_runs({"drivers": runs})] == runs


def test_what_an_earlier_commit_wrote_adds_up(tmp_path: Path):
    storage = unpack(tmp_path / "out")
    for name in ("finished", "stopped"):
        ledger = Ledger.open(f"sqlite:///{storage}/ledger.db", name)
        found = budget_status(ledger, None)
        runs = ledger.record.drivers
        assert all("stopped" not in entry for t in ledger.trials for entry in t.user_attrs["usage"])
        ledger.close()
        accounts = {n: found[f"{n}_hours"] for n in ACCOUNTS}
        offered = sum(run.wall_s * run.slots * run.cpus for run in runs) / 3600
        assert sum(accounts.values()) == pytest.approx(offered, rel=1e-6)
        assert accounts["repeated"] == accounts["failed"] == 0
        filled = {"finished": ("useful", "startup"), "stopped": ("unfinished",)}[name]
        assert all(accounts[n] > 0 for n in filled)


def test_a_grid_asks_for_no_more_trials_than_it_has_cells():
    assert planned_trials({"search": {"trials": 20, "grid": {"x": [1, 2, 3], "y": [1, 2]}}}) == 6
    assert planned_trials({"search": {"trials": 4, "grid": {"x": [1, 2, 3], "y": [1, 2]}}}) == 4
    assert planned_trials({"search": {"trials": 7}}) == 7
