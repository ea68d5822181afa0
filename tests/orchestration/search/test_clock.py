"""Clocks that are set while a sweep runs, or between its drivers, neither spend a budget nor give hours back."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from refsweep.orchestration.ledger.status import budget_status, status
from refsweep.orchestration.search import budget as budget_module
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, Report
from refsweep.tests.help import toy_driver
from refsweep.tests.orchestration.search.metered import Sweep
from refsweep.trainables.training.checkpoints import Name, packed

HOUR_S = 3600.0


class Clock:
    """The system's, which somebody sets, and the one that only goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.since_s = 1_700_000_000.0, 5_000.0
        both = SimpleNamespace(time=lambda: self.wall_s, monotonic=lambda: self.since_s)
        monkeypatch.setattr(budget_module, "time", both)

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.since_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def started(driver: Driver) -> Assignment:
    found = driver.next_action()
    assert isinstance(found, Assignment)
    return found


def entry(clock: Clock, epoch: int, seconds: float) -> dict[str, object]:
    at_ms = int(clock.wall_s * 1000)
    return {"epoch": epoch, "time_ms": at_ms, "seconds": seconds, "metrics": {"loss": 1.0 / epoch}, "setting": {}}


@pytest.mark.parametrize("hours", [11.0, -3.0, -400_000.0])
def test_a_clock_that_is_set_under_a_driver_changes_nothing_of_what_it_counts(
    tmp_path: Path, clock: Clock, hours: float
):
    driver = toy_driver(tmp_path, slots=1, trials=1)
    a = started(driver)
    clock.pass_(100)
    clock.wall_s += hours * HOUR_S
    clock.pass_(100)
    assert driver.budget.used()["cpu_hours"] * HOUR_S == pytest.approx(200)
    assert driver.budget.used()["wall_hours"] * HOUR_S == pytest.approx(200)
    driver.on_result(Report(number=0, attempt=a.attempt, entries=[entry(clock, 4, 190.0)], final=True))
    driver.budget.end()
    found = budget_status(driver.ledger, None)
    assert found["cpu_hours"] * HOUR_S == pytest.approx(200)
    assert found["wall_hours"] * HOUR_S == pytest.approx(200)


@pytest.mark.parametrize("hours", [11.0, -3.0])
def test_a_clock_that_is_set_between_two_drivers_gives_and_takes_no_hours(tmp_path: Path, clock: Clock, hours: float):
    first = toy_driver(tmp_path, slots=1, trials=1)
    a = started(first)
    clock.pass_(70)
    first.tick()  # a sign of life
    clock.pass_(20)
    clock.wall_s += hours * HOUR_S
    # an epoch that the driver did not hear of any more, by the clock of the trial's host
    found = first.checkpoints(0)
    found.write(Name(a.attempt, 1), packed({}, {}), {"history": [entry(clock, 1, 85.0)], "final": False}, set())
    first.ledger.close()
    second = toy_driver(tmp_path, slots=1, trials=1)
    assert second.budget.used()["cpu_hours"] * HOUR_S == pytest.approx(70)
    b = started(second)
    clock.pass_(100)
    used = second.budget.used()["cpu_hours"] * HOUR_S
    assert 170 <= used <= 170 + 85, "what it trained after its driver's last sign of life is known to so much"
    clock.pass_(10)
    second.on_result(Report(number=0, attempt=b.attempt, entries=[entry(clock, 4, 100.0)], final=True))
    second.budget.end()
    assert all(value >= 0 for key, value in budget_status(second.ledger, None).items() if key.endswith("_hours"))
    runs = second.ledger.record.drivers
    assert [run.began_s for run in runs] == sorted(run.began_s for run in runs)
    assert all(run.wall_s <= 111 for run in runs)


def test_a_finished_sweep_that_is_resumed_waits_for_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=4, trials=1)
    sweep.now_s = time.time()
    sweep.killed_and_resumed(0)
    a = sweep.start()
    sweep.now_s += 10
    sweep.epoch(a, 3, 10.0, final=True)
    sweep.driver.budget.end()
    before = status(sweep.driver.ledger)["budget"]["waiting_hours"]
    for _ in range(3):
        sweep.killed_and_resumed(20)
        sweep.driver.budget.end()
        assert status(sweep.driver.ledger)["budget"]["waiting_hours"] == before
        assert budget_status(sweep.driver.ledger, sweep.now_s)["waiting_hours"] == before
    assert len(sweep.driver.ledger.record.drivers) == 1
