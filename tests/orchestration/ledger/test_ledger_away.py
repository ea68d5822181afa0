"""A database that is away: the driver waits, with what it reads too, and only it reads anew."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.tests.orchestration.ledger.test_ledger import asked


def test_what_a_driver_reads_waits_for_a_database_that_is_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    ledger.take_lease()
    read, away = ledger._storage.get_trial, [2]

    def get_trial(trial_id: int) -> FrozenTrial:
        if away[-1]:
            away[-1] -= 1
            raise StorageInternalError("no connection")
        return read(trial_id)

    create, end = ledger._writer.create, ledger._writer.end

    def unanswered(*words: Any) -> None:
        create(*words)

    def told_before(*words: Any) -> None:
        end(*words)
        raise UpdateFinishedTrialError

    # what is written but not answered is read
    monkeypatch.setattr(ledger._writer, "create", unanswered)
    monkeypatch.setattr(ledger._writer, "end", told_before)
    monkeypatch.setattr(ledger._storage, "get_trial", get_trial)
    monkeypatch.setattr("refsweep.orchestration.ledger.ledger.time.sleep", lambda _: None)
    made = asked(ledger)
    away.append(2)
    ledger.tell(made.number, TrialState.COMPLETE, [1.0])
    assert away == [0, 0]
    assert ledger.trials[0].values == [1.0]


def test_only_the_thread_that_took_the_lease_reads_anew(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    # a tracker that did would put an older snapshot over what the driver has written meanwhile
    ledger.take_lease()
    again: list[int] = []
    calls: list[int] = []  # each writes another value
    monkeypatch.setattr(ledger, "still_ours", lambda: bool(again.append(threading.get_ident())))
    monkeypatch.setattr("refsweep.orchestration.ledger.ledger.time.sleep", lambda _: None)
    write = ledger._writer.set_attribute

    def set_attribute() -> None:
        failed: list[bool] = []

        def once(*words: Any) -> None:
            if not failed:
                failed.append(True)
                raise StorageInternalError("no connection")
            write(*words)

        monkeypatch.setattr(ledger._writer, "set_attribute", once)
        calls.append(1)
        ledger.update_sweep(forgiven=len(calls))

    thread = threading.Thread(target=set_attribute)
    thread.start()
    thread.join()
    assert again == []
    set_attribute()
    assert again == [threading.get_ident()]
