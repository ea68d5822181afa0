"""Between Tune and the driver: who is called silent, and how workers and head are found."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refsweep.orchestration.execution import head_watch
from refsweep.orchestration.execution import tune as executor
from refsweep.orchestration.execution.process_group import interface_of
from refsweep.orchestration.search.protocol import Room
from refsweep.tests.help import toy_driver


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(executor, "time", made)
    return made


def bridge(monkeypatch: pytest.MonkeyPatch, killed: list[Any]) -> executor._Bridge:
    monkeypatch.setattr("ray.kill", killed.append)
    monkeypatch.setattr(executor._Bridge, "_count_nodes", lambda _: None)
    spec = SimpleNamespace(retry=SimpleNamespace(hang_s=30.0))
    driver: Any = SimpleNamespace(spec=spec, tick=lambda: None, must_stop=lambda: False, live={})
    return executor._Bridge(driver, lambda: False)


def test_a_silent_trial_is_killed_but_not_for_what_the_driver_did_not_hear(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    killed: list[Any] = []
    actor = SimpleNamespace(ray_actor="actor")
    trial = SimpleNamespace(trial_id="a", is_finished=lambda: False, temporary_state=actor)
    made = bridge(monkeypatch, killed)
    clock.now += 1
    made.tick([trial])
    clock.now += 100  # the ledger was away, and with it the driver
    made.tick([trial])
    assert killed == []
    for _ in range(29):
        clock.now += 1
        made.tick([trial])
    assert killed == []
    for _ in range(2):
        clock.now += 1
        made.tick([trial])
    assert killed == ["actor"]


def test_slots_that_come_and_go_reach_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    driver = toy_driver(tmp_path, slots=2)
    driver.next_action()
    made = executor._Bridge(driver, lambda: False)
    for slots in (5, 0):
        monkeypatch.setattr(executor, "room_now", lambda _, slots=slots: Room(slots))
        made._count_nodes()
        assert driver.room.slots == driver.budget.slots == slots
    assert [n for _, n in driver.ledger.record.drivers[-1].rooms or ()] == [5, 0]


def test_the_interface_of_an_address_is_found():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


def test_that_the_head_is_silent_is_said_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head_watch, "HEAD_POLL_S", 0.02)
    messages: list[str] = []
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen(100)
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
        with head_watch.watched_head("s", messages.append):
            time.sleep(0.3)
            assert messages == []
            head.close()
            time.sleep(1.0)
    assert len(messages) == 1
    assert address in messages[0]
    assert "`refsweep sweep resume s` continues it" in messages[0]


def test_an_actor_says_whose_it_is():
    from refsweep.orchestration.execution.actor import TrialActor

    actor = TrialActor.__new__(TrialActor)
    actor.setup({"assignment": {"sweep": "s", "sweep_id": "1f0c"}})
    assert repr(actor) == "TrialActor(s, 1f0c)"
