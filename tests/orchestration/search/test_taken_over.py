"""What a driver does whose lease was lost: it ends, or goes on from what another one has left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher
from refsweep.orchestration.execution import tune
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import STOP_MARK, Assignment, NoTrial, Report, Verdict, report_as_text
from refsweep.orchestration.spec.errors import LeaseTakenError, LedgerLostError
from refsweep.orchestration.spec.folders import sweep_folder
from refsweep.tests.help import driver_of, toy_driver
from refsweep.tests.orchestration.search.test_driver import report, start


def lose(driver: Driver) -> None:
    lease = driver.ledger._lease._lease
    assert lease is not None
    lease.release()


def other_driver(driver: Driver) -> Driver:
    """Another one, which has taken over."""
    lose(driver)
    ledger = Ledger.open(driver.ledger.url, "s")
    ledger.take_lease()
    return driver_of(driver.spec, ledger)


def test_what_another_driver_left_is_taken_up_and_old_attempts_are_no_longer_heard(tmp_path: Path):
    driver = toy_driver(tmp_path, slots=2, pruner="none")
    first, second = start(driver), start(driver)
    other = other_driver(driver)
    assert [start(other).attempt for _ in range(2)] == [2, 2]
    third = start(other)
    other.on_result(Report(number=0, attempt=2, entries=[entry_of(4)], final=True))
    other.ledger.close()
    driver.tick()
    assert driver.live == {}
    assert driver.ledger.overtaken == 1
    for a in (first, second):
        assert report(driver, a, [-999.0], final=True) is Verdict.END
    assert driver.ledger.trials[0].values == [0.25]
    again = [start(driver), start(driver)]
    assert [(a.number, a.attempt) for a in again] == [(1, 3), (third.number, 2)]
    assert len({a.term for a in (first, third, again[0])}) == 3
    assert len(driver.ledger.record.drivers) == 3


def entry_of(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "time_ms": epoch, "seconds": 1.0, "metrics": {"loss": 1.0 / epoch}, "setting": {}}


def test_a_lease_that_was_lost_to_nobody_is_taken_again_and_trials_go_on(tmp_path: Path):
    driver = toy_driver(tmp_path, slots=1, pruner="none")
    a = start(driver)
    lose(driver)
    driver.tick()
    assert driver.ledger.term == 2
    assert driver.live == {0: 1}
    assert report(driver, a, [3.0, 2.0, 1.5, 1.0], final=True) is Verdict.END
    assert driver.ledger.trials[0].values == [1.0]


def bridge_of(driver: Driver, monkeypatch: pytest.MonkeyPatch, *, stop: bool = False) -> tune._Bridge:
    monkeypatch.setattr(tune._Bridge, "_count_nodes", lambda _: None)
    monkeypatch.setattr(tune, "TICK_POLL_S", -1.0)
    return tune._Bridge(driver, lambda: stop)


def begun(bridge: tune._Bridge) -> Any:
    trial = SimpleNamespace(
        trial_id="t", is_finished=lambda: False, temporary_state=SimpleNamespace(ray_actor=None), error_file=None
    )
    assert bridge.suggest("t") is not None
    return trial


@pytest.mark.parametrize("what", ["result", "lost", "ask", "tick", "stop"])
def test_under_tune_a_driver_that_was_taken_over_ends_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    driver = toy_driver(tmp_path, slots=2, pruner="none")
    bridge = bridge_of(driver, monkeypatch, stop=what == "stop")
    trial = begun(bridge)
    other = other_driver(driver)
    a = start(other)
    before = (other.ledger.record, other.ledger.trials[0].user_attrs)
    if what == "result":
        told = Report(number=0, attempt=1, entries=[entry_of(4)], final=True)
        assert bridge.on_result(trial, {"report": report_as_text(told)}) is Verdict.END
    elif what == "lost":
        bridge.on_actor_lost(trial)
    elif what == "ask":
        assert bridge.suggest("u") == Searcher.FINISHED
    else:
        bridge.tick([trial])
    assert bridge.finished(), "live trials are ended"
    assert bridge.suggest("v") == Searcher.FINISHED
    with pytest.raises(LeaseTakenError):
        bridge.raise_loss()
    assert not sweep_folder(driver.spec).exists(STOP_MARK), "it would stop the other's trials"
    other.ledger.refresh()
    assert (other.ledger.record, other.ledger.trials[0].user_attrs) == before
    assert report(other, a, [1.0, 1.0, 1.0, 0.5], final=True) is Verdict.END
    assert other.ledger.trials[0].values == [0.5]


def test_in_this_process_a_driver_that_was_taken_over_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    driver = toy_driver(tmp_path, slots=1, pruner="none", trials=3)
    on_result, others = driver.on_result, list[Driver]()

    def taking_over(found: Report) -> Verdict:
        if not others:
            others.append(other_driver(driver))
            assert isinstance(others[0].next_action(), Assignment)
        return on_result(found)

    monkeypatch.setattr(driver, "on_result", taking_over)
    with pytest.raises(LeaseTakenError):
        InlineBackend().run(driver)
    others[0].ledger.refresh()
    assert [t.state.name for t in others[0].ledger.trials] == ["RUNNING"]
    assert others[0].ledger.record.term == 2


def test_a_driver_whose_ledger_is_deleted_halts_at_the_next_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    driver = toy_driver(tmp_path, slots=2)
    bridge = bridge_of(driver, monkeypatch)
    trial = begun(bridge)
    (tmp_path / "ledger.db").unlink()
    bridge.tick([trial])
    assert bridge.finished()
    with pytest.raises(LedgerLostError, match="was deleted or replaced"):
        bridge.raise_loss()
    assert not (tmp_path / "ledger.db").exists()


def test_while_only_the_server_holds_our_old_session_nothing_new_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    driver = toy_driver(tmp_path, slots=2, pruner="none")
    a = start(driver)
    monkeypatch.setattr(driver.ledger, "still_ours", lambda: False)
    assert driver.next_action() is NoTrial.WAIT
    assert report(driver, a, [3.0, 2.0, 1.5, 1.0], final=True) is Verdict.END
