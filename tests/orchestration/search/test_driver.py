"""What a driver decides, without anything that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from refsweep.orchestration.ledger.failure import Failure
from refsweep.orchestration.ledger.lease import LeaseTakenError
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, NoTrial, Report, Verdict
from refsweep.tests.help import toy_driver


def start(driver: Driver) -> Assignment:
    found = driver.next_action()
    assert isinstance(found, Assignment)
    return found


def entry(epoch: int, loss: float) -> dict[str, Any]:
    return {"epoch": epoch, "time_ms": epoch, "seconds": 1.0, "metrics": {"loss": loss}, "setting": {}}


def report(driver: Driver, a: Assignment, losses: Sequence[float], since: int = 0, *, final: bool = False) -> Verdict:
    entries = [entry(since + i + 1, loss) for i, loss in enumerate(losses)]
    return driver.on_result(Report(number=a.number, attempt=a.attempt, entries=entries, final=final))


def test_a_trial_taken_up_again_is_not_pruned_by_what_others_reached_while_it_was_ahead(tmp_path: Path):
    driver = toy_driver(tmp_path)
    first, second = start(driver), start(driver)
    assert report(driver, first, [5.0]) is Verdict.GO_ON, "the first one at the rung of epoch 1"
    assert report(driver, first, [5.0], 1) is Verdict.GO_ON
    assert report(driver, first, [5.0], 2) is Verdict.GO_ON
    assert report(driver, second, [1.0]) is Verdict.GO_ON, "better than the first at that rung"
    driver.on_attempt_lost(first.number, first.attempt, Failure("lost", "the worker was lost"))
    again = start(driver)
    assert (again.number, again.attempt) == (0, 2)
    assert report(driver, again, [5.0, 5.0, 5.0]) is Verdict.GO_ON, "its history, told by the new attempt"
    assert report(driver, again, [5.0], 3, final=True) is Verdict.END
    assert driver.ledger.trials[0].state.name == "COMPLETE"


def test_the_newest_epoch_is_judged_again_when_its_verdict_may_have_been_lost(tmp_path: Path):
    driver = toy_driver(tmp_path)
    first, second = start(driver), start(driver)
    report(driver, first, [1.0])
    driver.ledger.report(1, 1, [5.0])  # killed between this write and the verdict
    driver.on_attempt_lost(second.number, second.attempt, Failure("lost", "the worker was lost"))
    again = start(driver)
    assert report(driver, again, [5.0]) is Verdict.END
    assert driver.ledger.trials[1].state.name == "PRUNED"


def test_once_a_trial_has_seen_the_mark_to_stop_nothing_is_asked_for(tmp_path: Path):
    driver = toy_driver(tmp_path, slots=1, pruner="none")
    first = start(driver)
    driver.on_result(Report(number=first.number, attempt=first.attempt, stopped=True))
    assert driver.next_action() is NoTrial.FINISHED
    assert [t.state.name for t in driver.ledger.trials] == ["RUNNING"]


def test_no_more_is_asked_for_than_planned_and_the_end_waits_for_live_trials(tmp_path: Path):
    driver = toy_driver(tmp_path, slots=4, trials=2, pruner="none")
    first, second = start(driver), start(driver)
    assert driver.next_action() is NoTrial.WAIT
    for a in (first, second):
        report(driver, a, [3.0, 2.0, 1.5, 1.0], final=True)
    assert driver.next_action() is NoTrial.FINISHED


def test_a_driver_that_lost_its_lease_to_another_asks_for_nothing(tmp_path: Path):
    driver = toy_driver(tmp_path)
    start(driver)
    lease = driver.ledger._lease
    assert lease is not None
    lease.release()  # as a lost connection would
    other = Ledger.open(driver.ledger.url, "s")
    other.take_lease()
    with pytest.raises(LeaseTakenError):
        driver.next_action()
    other.close()
    assert isinstance(driver.next_action(), Assignment), "free again: taken again"
