"""What the time of a sweep was for, as the driver's record has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from refsweep.orchestration.cli.budget_lines import budget_lines
from refsweep.orchestration.ledger.failure import Failure
from refsweep.orchestration.ledger.status import budget_status
from refsweep.orchestration.ledger.usage import attempts_of
from refsweep.orchestration.search.protocol import Report, Verdict
from refsweep.tests.orchestration.search.metered import Sweep
from refsweep.trainables.training.checkpoints import Name, packed


def test_three_trials_that_lost_nothing_have_started_and_trained(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=3)
    for _ in range(3):
        a = sweep.start()
        began_s = sweep.now_s + 5
        sweep.now_s += 5
        for epoch in (1, 2, 3):
            sweep.now_s += 11
            sweep.epoch(a, epoch, 10.0, final=epoch == 3, training_began_s=began_s)
    assert sweep.accounts() == {"useful": 180.0, "startup": 3 * 2 * (5 + 3)}


def test_of_an_attempt_killed_in_its_third_epoch_that_epoch_is_repeated(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    began_s = sweep.now_s + 4
    sweep.now_s += 4
    for epoch in (1, 2):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, training_began_s=began_s)
    sweep.now_s += 6
    sweep.driver.on_attempt_lost(0, 1, Failure("node_lost", "gone"))
    again = sweep.start()
    sweep.now_s += 3 + 10
    sweep.epoch(again, 3, 10.0, final=True, training_began_s=sweep.now_s - 10)
    assert sweep.accounts() == {"useful": 60.0, "startup": 2 * (4 + 3), "repeated": 12.0}


def test_an_attempt_that_reported_no_epoch_has_lost_what_it_trained_if_it_said_when_that_began(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 10
    error = Failure("error", "in the first epoch")
    sweep.driver.on_result(Report(number=0, attempt=1, failure=error, training_began_s=sweep.now_s - 7))
    a = sweep.start()
    sweep.now_s += 10
    sweep.driver.on_attempt_lost(0, a.attempt, Failure("lost", "without a word"))
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3, training_began_s=sweep.now_s - 10)
    assert sweep.accounts() == {"useful": 60.0, "startup": 2 * (3 + 10), "repeated": 14.0}


def test_epochs_of_a_pruned_trial_have_an_account_of_their_own(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=2, pruner="asha")
    good, loss = sweep.start(), 1.0
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(good, epoch, 10.0, loss=loss, final=epoch == 3)
    bad = sweep.start()
    sweep.now_s += 12
    assert sweep.epoch(bad, 1, 9.0, loss=50.0) is Verdict.END
    assert sweep.driver.ledger.trials[1].state == TrialState.PRUNED
    assert sweep.accounts() == {"useful": 60.0, "pruned": 18.0, "startup": 6.0}


@pytest.mark.parametrize("kind", ["out_of_memory", "error"])
def test_all_training_of_a_trial_that_failed_is_failed(tmp_path: Path, kind: Any):
    sweep = Sweep(tmp_path, slots=1, trials=1, max_retries=0)
    a = sweep.start()
    sweep.now_s += 12
    sweep.epoch(a, 1, 10.0, training_began_s=sweep.now_s - 10)
    sweep.now_s += 5
    sweep.driver.on_result(Report(number=0, attempt=1, failure=Failure(kind, "no")))
    assert sweep.driver.ledger.trials[0].state.is_finished()
    assert sweep.accounts() == {"failed": 30.0, "startup": 4.0}


def test_a_stopped_sweep_that_is_resumed_has_repeated_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 12
    sweep.epoch(a, 1, 10.0, training_began_s=sweep.now_s - 10)
    sweep.now_s += 6  # of the second epoch's ten
    sweep.stop(a, 2, 3)
    attempt = attempts_of(sweep.driver.ledger.trials[0])[-1]
    assert (attempt.ended_s, attempt.stopped) == (sweep.now_s, True), "written at once"
    sweep.now_s += 20
    sweep.driver.budget.end()
    sweep.killed_and_resumed(5000)
    assert sweep.accounts(running=False) == {"unfinished": 36.0, "waiting": 40.0}
    again = sweep.start()
    sweep.now_s += 1 + 4
    sweep.epoch(again, 2, 10.0, training_began_s=sweep.now_s - 4)
    sweep.now_s += 10
    sweep.epoch(again, 3, 10.0, final=True)
    assert sweep.accounts() == {"useful": 60.0, "startup": 2 * (2 + 1), "waiting": 40.0}


def test_a_stop_that_the_driver_did_not_live_to_hear_of_has_lost_nothing_either(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 70
    sweep.driver.budget.heartbeat()
    dead = sweep.driver
    sweep.killed_and_resumed(0)
    dead.checkpoints(0).write(Name(a.attempt, 0, 5), packed({}, {}), {"history": [], "final": False}, set())
    again = sweep.start()
    sweep.now_s += 40
    sweep.epoch(again, 1, 100.0, training_began_s=sweep.now_s - 40)
    assert [x.stopped for x in attempts_of(sweep.driver.ledger.trials[0])] == [True, False]
    for epoch in (2, 3):
        sweep.now_s += 100
        sweep.epoch(again, epoch, 100.0, final=epoch == 3)
    assert sweep.accounts() == {"useful": 600.0, "startup": 20.0}


def test_the_line_that_is_printed_names_every_account(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=1)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 100
        sweep.epoch(a, epoch, 90.0, final=epoch == 3)
    shown = budget_lines(budget_status(sweep.driver.ledger, sweep.now_s))[0]
    accounts = "useful 9 min, start-up 60 s, repeated 0 s, pruned 0 s, failed 0 s, waiting 10 min"
    assert shown == f"CPU time: {accounts}"
