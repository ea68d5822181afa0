"""One driver at a time: what an earlier driver still sends is refused, whatever has become of its lease."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger import held
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.usage import DriverRun
from refsweep.orchestration.spec.errors import LeaseTakenError, LedgerLostError, LedgerUnavailableError
from refsweep.tests.help import asked as ask_for

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)


def asked(ledger: Ledger) -> FrozenTrial:
    return ask_for(ledger, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})


@contextlib.contextmanager
def another(ledger: Ledger) -> Iterator[Ledger]:
    """The sweep's driver from now on: the lease of `ledger` was lost, and it has not noticed."""
    assert ledger._lease._lease is not None
    ledger._lease._lease.release()
    other = Ledger.open(ledger.url, ledger.sweep)
    until = time.monotonic() + 10
    while True:
        try:
            other.take_lease()
            break
        except LeaseTakenError:
            assert time.monotonic() < until
            time.sleep(0.02)
    yield other
    other.close()


WRITES: dict[str, Callable[[Ledger], Any]] = {
    "ask": asked,
    "retry": lambda ledger: ledger.create_retry(ledger.trials[0]),
    "report": lambda ledger: ledger.report(1, 2, [0.5]),
    "note": lambda ledger: ledger.update_trial(1, attempt=7),
    "infeasible": lambda ledger: ledger.violate(1, "out_of_memory"),
    "end": lambda ledger: ledger.tell(1, TrialState.COMPLETE, [-999.0]),
    "state": lambda ledger: ledger.update_sweep(state="halted"),
    "driver": lambda ledger: ledger.update_sweep(
        drivers=[DriverRun(began_s=0.0, seen_s=1.0, slots=1, gpus=0.0, cpus=1.0)]
    ),
    "run": lambda ledger: ledger.set_run_id(1, "f00d"),
    "anew": lambda ledger: ledger.begin_anew(["max"], {"name": "s"}),
}


def test_no_write_of_a_driver_that_was_taken_over_arrives_and_none_is_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("refsweep.orchestration.ledger.ledger.time.sleep", lambda _: pytest.fail("it waits"))
    ledger.take_lease()
    asked(ledger)
    ledger.tell(0, TrialState.FAIL, None)
    asked(ledger)
    monkeypatch.undo()
    with another(ledger) as other:
        for name, write in WRITES.items():
            with pytest.raises(LeaseTakenError, match="another driver has taken over the sweep: this one ends"):
                print(name, write(ledger))  # shown when it was written
        before = (other.trials, other.record)
        other.refresh()
        assert (other.trials, other.record) == before
        other.tell(1, TrialState.COMPLETE, [0.5])
        assert other.trials[1].values == [0.5]


def test_terms_go_up_by_one_and_the_id_stays(ledger: Ledger):
    made = ledger.record.id
    assert made is not None
    assert ledger.record.term == 0
    for term in (1, 2, 3):
        with contextlib.closing(Ledger.open(ledger.url, "s")) as driver:
            driver.take_lease()
            assert (driver.term, driver.record.term, driver.record.id) == (term, term, made)


def test_a_ledger_of_before_gets_its_first_term_and_an_id(ledger: Ledger):
    with ledger._storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM study_user_attributes WHERE key IN ('id', 'term')"))
    with contextlib.closing(Ledger.open(ledger.url, "s")) as found:
        assert (found.term, found.record.id) == (None, None)
        asked(found)
        found.take_lease()
        assert found.term == 1
        assert found.record.id is not None
    assert Ledger.open(ledger.url, "s").record.term == 1


def test_of_drivers_that_raise_one_term_at_the_same_time_one_does(ledger: Ledger):
    drivers = [Ledger.open(ledger.url, "s") for _ in range(4)]  # whose leases nobody keeps apart
    ready, outcomes = threading.Barrier(4), list[object]()

    def begin(driver: Ledger) -> None:
        ready.wait()
        try:
            outcomes.append(driver._writer.raise_term(0, None))
        except (LeaseTakenError, StorageInternalError) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=begin, args=[driver]) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(1) == 1
    assert outcomes.count(LeaseTakenError) == 3
    for driver in drivers:
        driver.close()


# -- the sequence of writes --------------------------------------------------------------------------------

STORED = "(SELECT value_json FROM study_user_attributes WHERE key = 'term')"
AUDIT = {
    "sqlite": [
        "CREATE TABLE audit (at INTEGER PRIMARY KEY AUTOINCREMENT, written TEXT, term TEXT)",
        "CREATE TRIGGER noted AFTER INSERT ON trial_user_attributes WHEN NEW.key = 'cause' BEGIN"  # noqa: S608
        f" INSERT INTO audit (written, term) VALUES (NEW.value_json, {STORED}); END",
        "CREATE TRIGGER changed AFTER UPDATE ON trial_user_attributes WHEN NEW.key = 'cause' BEGIN"  # noqa: S608
        f" INSERT INTO audit (written, term) VALUES (NEW.value_json, {STORED}); END",
    ],
    "postgresql": [
        "CREATE TABLE audit (at SERIAL PRIMARY KEY, written TEXT, term TEXT)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.key = 'cause' THEN"  # noqa: S608
        f" INSERT INTO audit (written, term) VALUES (NEW.value_json, {STORED}); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER noted AFTER INSERT OR UPDATE ON trial_user_attributes FOR EACH ROW EXECUTE FUNCTION note()",
    ],
}


def lose_a_lease(ledger: Ledger, url: str) -> None:
    """As a server, or somebody who tidies up, may do it."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        path.with_name(f"{path.name}.s.lease").unlink(missing_ok=True)
        return
    with ledger._storage.engine.connect() as connection:
        held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        connection.execute(sqlalchemy.text(held))


def drive(url: str, who: int, until: float, refused: list[int]) -> None:
    """Writes on and on, and takes the lease whenever it can; it pauses at any moment."""
    rng = random.Random(who)
    ledger = Ledger.open(url, "s")
    number = 0
    while time.monotonic() < until:
        try:
            ledger.take_lease()
            while time.monotonic() < until:
                number += 1
                ledger.update_trial(0, cause=f"{ledger.term} {who} {number}")
                time.sleep(rng.choice([0.0, 0.0, 0.002, 0.05]))
        except LeaseTakenError:
            refused.append(who)
            time.sleep(0.01)
    ledger.close()


def test_between_drivers_that_lose_their_leases_every_write_is_of_the_term_that_is_stored(ledger: Ledger):
    asked(ledger)
    with ledger._storage.engine.begin() as connection:
        for statement in AUDIT[ledger._storage.engine.name]:
            connection.execute(sqlalchemy.text(statement))
    until, refused = time.monotonic() + 2.5, list[int]()
    drivers = [threading.Thread(target=drive, args=[ledger.url, who, until, refused]) for who in (1, 2)]
    for driver in drivers:
        driver.start()
    while time.monotonic() < until:
        time.sleep(0.05)
        lose_a_lease(ledger, ledger.url)
    for driver in drivers:
        driver.join()
    with ledger._storage.engine.connect() as connection:
        written = connection.execute(sqlalchemy.text("SELECT written, term FROM audit ORDER BY at")).all()
    terms = [(int(text.strip('"').split()[0]), int(term)) for text, term in written]
    assert [own for own, _ in terms] == [stored for _, stored in terms]
    assert [stored for _, stored in terms] == sorted(stored for _, stored in terms)
    assert len({text.strip('"').split()[1] for text, _ in written}) == 2, "both have driven"
    assert len({own for own, _ in terms}) > 3, "it was taken over again and again"
    assert refused, "somebody was told so"


# -- what becomes of the lease and of the file -------------------------------------------------------------


@on_sqlite
def test_who_deletes_the_file_of_a_lease_lets_another_driver_in_and_the_first_one_ends(ledger: Ledger):
    ledger.take_lease()
    asked(ledger)
    lose_a_lease(ledger, ledger.url)
    assert not ledger.still_ours() or ledger.term == 2, "alone, it takes it again"
    assert ledger.term == 2
    lose_a_lease(ledger, ledger.url)
    other = Ledger.open(ledger.url, "s")
    other.take_lease()
    other.update_trial(0, attempt=2)
    with pytest.raises(LeaseTakenError):
        ledger.update_trial(0, attempt=2)
    with pytest.raises(LeaseTakenError):
        ledger.watch()
    other.close()


@on_sqlite
@pytest.mark.parametrize("replaced", [False, True])
def test_a_ledger_whose_file_was_deleted_or_replaced_takes_no_write(ledger: Ledger, tmp_path: Path, replaced: bool):
    ledger.take_lease()
    asked(ledger)
    path = tmp_path / "ledger.db"
    copy = path.read_bytes()
    path.unlink()
    if replaced:
        path.write_bytes(copy)
    for what in (lambda: ledger.report(0, 1, [0.5]), ledger.watch, lambda: asked(ledger)):
        with pytest.raises(LedgerLostError, match=f"{path} was deleted or replaced while its sweep ran"):
            what()
    assert path.exists() == replaced


@on_sqlite
@pytest.mark.parametrize("errno", [None, 95, 37])
def test_a_file_system_without_locks_is_refused_and_postgresql_named(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, errno: int | None
):
    def flock(*_: Any) -> None:
        if errno is not None:
            raise OSError(errno, "no locks available")

    monkeypatch.setattr("refsweep.orchestration.ledger.file_lease.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"has no file locks \(.*\).*PostgreSQL \(`ledger: postgresql://HOST/DB`\)"):
        ledger.take_lease()


def forget_the_newest(ledger: Ledger) -> None:
    """As a server does that was behind when it took over."""
    with ledger._storage.engine.begin() as connection:
        newest = "(SELECT max(trial_id) FROM trials)"
        for table in ("trial_params", "trial_user_attributes", "trial_system_attributes"):
            connection.execute(sqlalchemy.text(f"DELETE FROM {table} WHERE trial_id = {newest}"))  # noqa: S608
        connection.execute(sqlalchemy.text(f"DELETE FROM trials WHERE trial_id = {newest}"))  # noqa: S608


@pytest.mark.parametrize("noticed", ["write", "lease"])
def test_a_driver_whose_newest_rows_are_gone_ends_with_a_sentence(ledger: Ledger, noticed: str):
    ledger.take_lease()
    asked(ledger)
    asked(ledger)
    forget_the_newest(ledger)
    what = ledger.take_lease if noticed == "lease" else lambda: ledger.report(1, 1, [0.5])
    with pytest.raises(LedgerLostError, match="put back to an earlier state"):
        what()
    ledger.close()
    with contextlib.closing(Ledger.open(ledger.url, "s")) as resumed:
        resumed.take_lease()
        assert len(resumed.trials) == 1
        asked(resumed)


def test_a_driver_whose_term_is_gone_ends_with_a_sentence(ledger: Ledger):
    ledger.take_lease()
    with ledger._storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE study_user_attributes SET value_json = '0' WHERE key = 'term'"))
    with pytest.raises(LedgerLostError, match="put back to an earlier state"):
        ledger.update_sweep(forgiven=3)


def test_a_write_that_was_under_way_when_another_driver_came_and_went_is_not_sent_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    ledger.take_lease()
    asked(ledger)
    monkeypatch.setattr("refsweep.orchestration.ledger.ledger.time.sleep", lambda _: None)
    report = ledger._writer.report

    def away(*words: Any) -> None:
        monkeypatch.setattr(ledger._writer, "report", report)
        with another(ledger) as other:
            other.update_trial(0, attempt=2)
        raise StorageInternalError("connection lost")

    monkeypatch.setattr(ledger._writer, "report", away)
    with pytest.raises((LeaseTakenError, LedgerUnavailableError)):
        ledger.report(0, 1, [0.5])
    assert Ledger.open(ledger.url, "s").trials[0].intermediate_values == {}


# -- making a sweep ----------------------------------------------------------------------------------------


def test_of_those_who_make_a_sweep_at_the_same_time_one_does_and_all_find_it(ledger_url: str):
    Ledger.create(ledger_url, "other", ["min"], {"name": "other"}).close()
    ready, made = threading.Barrier(6), list[Ledger]()

    def make(number: int) -> None:
        ready.wait()
        made.append(Ledger.create(ledger_url, "s", ["min", "max"], {"name": "s", "by": number}))

    threads = [threading.Thread(target=make, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len({ledger.record.id for ledger in made}) == 1
    assert len({str(ledger.record.spec) for ledger in made}) == 1
    assert all(ledger.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE] for ledger in made)
    for ledger in made:
        ledger.close()


def test_a_sweep_is_made_whole_or_not_at_all(ledger_url: str, monkeypatch: pytest.MonkeyPatch):
    Ledger.create(ledger_url, "other", ["min"], {"name": "other"}).close()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("refsweep.orchestration.ledger.creating.json.dumps", killed)  # the last thing that is asked for
        with pytest.raises(KeyboardInterrupt):
            Ledger.create(ledger_url, "s", ["min"], {"name": "s"})
    assert [s.study_name for s in RDBStorage(ledger_url).get_all_studies()] == ["other"]


def test_somebodys_own_study_of_the_name_is_left_alone(ledger_url: str):
    theirs = RDBStorage(ledger_url)
    study = theirs.create_new_study([StudyDirection.MINIMIZE], "s")
    theirs.create_new_trial(study)
    with pytest.raises(LedgerUnavailableError, match="an Optuna study 's' that is no sweep"):
        Ledger.create(ledger_url, "s", ["min"], {"name": "s"})
    assert len(theirs.get_all_trials(study)) == 1


def test_a_lost_lease_is_looked_for_again_only_so_often(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    ledger.take_lease()
    taken: list[int] = []
    monkeypatch.setattr(ledger._lease, "lost", lambda: True)
    monkeypatch.setattr(ledger, "still_ours", lambda: bool(taken.append(1)))
    for _ in range(50):
        ledger.watch()
    assert len(taken) == 1
    monkeypatch.setattr(held, "TAKE_AGAIN_S", 0.0)
    ledger.watch()
    assert len(taken) == 2
