"""One driver a sweep, and writes that outlive a database that is away for a while."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger import ledger as ledger_module
from refsweep.orchestration.ledger.lease import LeaseTakenError
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.sql import StudyWriter
from refsweep.tests.help import asked as ask_for
from refsweep.tests.orchestration.ledger.leases import takes, within

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
HOLDER = """
import sys, time
from refsweep.orchestration.ledger.ledger import Ledger
ledger = Ledger.open(*sys.argv[1:])
ledger.take_lease()
print("held", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def another_driver(ledger: Ledger) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the sweep's lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, ledger.url, ledger.sweep], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def reopened(ledger: Ledger) -> Ledger:
    return Ledger.open(ledger.url, ledger.sweep)


def asked(ledger: Ledger) -> FrozenTrial:
    return ask_for(ledger, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})


def test_a_second_driver_is_refused_while_the_first_lives_and_not_once_it_is_killed(ledger: Ledger):
    assert not ledger.has_driver()
    with another_driver(ledger) as first:
        assert ledger.has_driver()
        with pytest.raises(LeaseTakenError, match="sweep 's' has a driver already: watch it with `sweep status`"):
            ledger.take_lease()
        with pytest.raises(LeaseTakenError):
            ledger.still_ours()
        assert reopened(ledger).trials == []
        first.kill()
        first.wait()
        # a server hears of the end through the closed socket
        assert within(10, lambda: takes(ledger))
    assert ledger.has_driver()
    assert ledger.still_ours()


def test_a_lease_is_seen_by_its_holder_and_by_others_until_it_is_given_back(ledger: Ledger):
    ledger.take_lease()
    assert ledger.has_driver()
    reader = reopened(ledger)
    assert reader.has_driver()
    assert reader.has_driver(), "looking takes nothing away"
    with pytest.raises(LeaseTakenError):
        reader.take_lease()
    ledger.close()
    assert within(10, lambda: takes(reader))
    reader.close()


def test_a_lease_that_was_given_back_is_free_at_once(ledger: Ledger):
    pair = [ledger, reopened(ledger)]
    for turn in range(20):
        assert takes(pair[turn % 2]), f"turn {turn}"
        pair[turn % 2].close()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns after every few instructions, so that what may come in between does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_who_looks_for_a_driver_never_keeps_one_from_starting(ledger: Ledger):
    stopped = threading.Event()

    def look() -> None:
        while not stopped.is_set():
            reader.has_driver()

    reader = reopened(ledger)
    looking = threading.Thread(target=look)
    looking.start()
    refused = 0
    for _ in range(40):
        refused += not takes(ledger)
        ledger.close()
    stopped.set()
    looking.join()
    assert refused == 0


@pytest.mark.usefixtures("eager_threads")
def test_those_who_look_for_a_driver_at_the_same_time_do_not_take_each_other_for_one(ledger: Ledger):
    readers = [reopened(ledger) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda reader: sum(reader.has_driver() for _ in range(300)), readers))
    assert seen == [0, 0, 0, 0]


def test_every_sweep_of_a_ledger_has_a_lease_of_its_own(ledger: Ledger):
    other = Ledger.create(ledger.url, "other", ["min"], {"name": "other"})
    ledger.take_lease()
    assert takes(other)
    other.close()
    assert ledger.still_ours()


def test_taking_the_lease_reads_what_others_have_written(ledger: Ledger):
    asked(reopened(ledger))
    assert ledger.trials == []
    ledger.take_lease()
    assert len(ledger.trials) == 1


def cut_all_connections(url: str) -> None:
    """What a server does to its clients when it is started again."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND usename = current_user"
        )


@on_postgresql
def test_a_driver_whose_connections_were_cut_takes_its_lease_again_and_reads_anew(ledger: Ledger):
    ledger.take_lease()
    asked(ledger)
    cut_all_connections(ledger.url)
    reader = reopened(ledger)
    asked(reader)
    assert not ledger.has_driver()
    assert within(10, ledger.still_ours)
    assert reader.has_driver()
    assert ledger.trials == reader.trials
    assert len(ledger.trials) == 2


@on_postgresql
def test_a_driver_whose_lease_another_has_taken_meanwhile_does_not_get_it_back(ledger: Ledger):
    ledger.take_lease()
    cut_all_connections(ledger.url)
    other = reopened(ledger)
    assert within(10, lambda: takes(other))
    with pytest.raises(LeaseTakenError):
        ledger.still_ours()
    other.close()
    assert within(10, ledger.still_ours)


@on_postgresql
def test_what_a_driver_writes_after_its_connections_were_cut_is_there_once(ledger: Ledger):
    asked(ledger)
    steps: list[Callable[[], Any]] = [
        lambda: ledger.report(0, 1, [0.5]),
        lambda: ledger.update_trial(0, cause="none"),
        lambda: ledger.tell(0, TrialState.COMPLETE, [0.5]),
        lambda: asked(ledger),
        lambda: ledger.update_sweep(state="running"),
        ledger.refresh,
    ]
    for step in steps:
        cut_all_connections(ledger.url)
        step()
    assert reopened(ledger).trials == ledger.trials
    assert [t.state.name for t in ledger.trials] == ["COMPLETE", "RUNNING"]
    assert ledger.trials[0].intermediate_values == {1: 0.5}


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept, by the clock that the ledger sees."""
    slept: list[float] = []
    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept)))
    return slept


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [times]

    def what() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "written"

    return what


@on_sqlite
def test_a_write_is_tried_again_until_the_database_is_back(ledger: Ledger, naps: list[float]):
    assert ledger._write(failing(2, StorageInternalError("connection lost"))) == "written"
    assert len(naps) == 2
    assert all(nap > 0 for nap in naps)


@on_sqlite
def test_a_write_gives_up_in_the_end_with_the_databases_own_words(ledger: Ledger, naps: list[float]):
    with pytest.raises(StorageInternalError, match="connection lost"):
        ledger._write(failing(10_000, StorageInternalError("connection lost")))
    assert 60 <= sum(naps) <= 300


def full_disk() -> list[StorageInternalError]:
    behind = StorageInternalError("could not commit")
    behind.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return [StorageInternalError("(sqlite3.OperationalError) database or disk is full"), behind]


@on_sqlite
@pytest.mark.parametrize("error", full_disk(), ids=["said", "behind another error"])
def test_a_full_disk_is_bad_input_and_not_waited_for(ledger: Ledger, naps: list[float], error: StorageInternalError):
    with pytest.raises(InputError, match=f"no space left on the disk of .*{ledger.url.rpartition('/')[2]}"):
        ledger._write(failing(1, error))
    assert naps == []


@on_sqlite
def test_what_is_no_error_of_the_database_is_not_tried_again(ledger: Ledger, naps: list[float]):
    with pytest.raises(ValueError, match="no such value"):
        ledger._write(failing(1, ValueError("no such value")))
    assert naps == []


def lose_the_first_answer(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The database does what it is asked, and the connection is lost before it can say so."""
    original, answers = getattr(StudyWriter, method), [StorageInternalError("connection lost")]

    def lossy(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if answers:
            raise answers.pop()
        return result

    monkeypatch.setattr(StudyWriter, method, lossy)


def test_a_trial_whose_creation_was_not_answered_is_not_made_twice(
    ledger: Ledger, naps: list[float], monkeypatch: pytest.MonkeyPatch
):
    lose_the_first_answer(monkeypatch, "create")
    first, second = asked(ledger), asked(ledger)
    assert len(naps) == 1
    assert reopened(ledger).trials == [first, second]
    assert first.params != second.params


def test_an_end_whose_telling_was_not_answered_is_told_again(
    ledger: Ledger, naps: list[float], monkeypatch: pytest.MonkeyPatch
):
    asked(ledger)
    lose_the_first_answer(monkeypatch, "end")
    ledger.tell(0, TrialState.COMPLETE, [0.5])
    assert len(naps) == 1
    assert ledger.trials[0].values == [0.5]
    assert reopened(ledger).trials == ledger.trials
