"""The ledger on SQLite and on PostgreSQL: what is written is read, and writing twice is writing once."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger.database import UnknownSweepError, sweeps_in
from refsweep.orchestration.ledger.failure import FailedAttempt, Failure
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.records import SweepRecord
from refsweep.orchestration.search.asking import propose
from refsweep.orchestration.search.discovery import sampler_class
from refsweep.orchestration.search.samplers.base import SamplerSettings
from refsweep.orchestration.spec.locations import check_url
from refsweep.tests.help import asked as ask_for

SPEC = {"name": "s"}


def space(trial: Any) -> dict[str, Any]:
    return {
        "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True),
        "depth": trial.suggest_int("depth", 1, 8),
        "mode": trial.suggest_categorical("mode", ["a", None, True, 0.5]),
    }


def asked(ledger: Ledger, sampler: str = "random") -> FrozenTrial:
    return ask_for(ledger, space, sampler, startup=2)


def reopened(ledger: Ledger) -> Ledger:
    return Ledger.open(ledger.url, ledger.sweep)


class Writes:
    """Counts what goes through the door."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, write = 0, Ledger._write

        def counted(ledger: Ledger, what: Callable[[], Any]) -> Any:
            self.count += 1
            return write(ledger, what)

        patch.setattr(Ledger, "_write", counted)


def test_creating_again_finds_what_is_there(ledger: Ledger):
    asked(ledger)
    again = Ledger.create(ledger.url, "s", ["max"], {"name": "other"})
    assert again.record == ledger.record == SweepRecord(spec=SPEC, id=ledger.record.id)
    assert again.directions == [StudyDirection.MINIMIZE]
    assert again.trials == ledger.trials
    assert sweeps_in(ledger.url) == ["s"]


def test_a_sweep_whose_maker_died_before_its_spec_was_written_is_made_anew(ledger_url: str):
    RDBStorage(ledger_url).create_new_study([StudyDirection.MAXIMIZE], "s")  # an earlier version made it in steps
    assert Ledger.find(ledger_url, "s") is None
    with pytest.raises(UnknownSweepError, match="no sweep 's'"):
        Ledger.open(ledger_url, "s")
    made = Ledger.create(ledger_url, "s", ["min"], SPEC)
    assert (made.record.spec, made.directions, made.trials) == (SPEC, [StudyDirection.MINIMIZE], [])
    assert Ledger.open(ledger_url, "s").record == made.record


def test_a_name_that_is_not_there_is_answered_with_those_that_are(ledger: Ledger):
    Ledger.create(ledger.url, "b", ["min"], SPEC)
    with pytest.raises(UnknownSweepError, match=r"no sweep 'x' in .*; there are: b, s$"):
        Ledger.open(ledger.url, "x")


def test_asking_is_one_write_of_a_whole_running_trial(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    writes = Writes(monkeypatch)
    trial = asked(ledger)
    assert writes.count == 1
    assert trial.state == TrialState.RUNNING
    assert set(trial.params) == {"lr", "depth", "mode"}
    assert trial.user_attrs == {"config": trial.params, "attempt": 1, "data": "f00d"}
    assert reopened(ledger).trials == ledger.trials == [trial]


@pytest.mark.parametrize("name", ["tpe", "cmaes", "nsga2"])
def test_asking_through_a_ledger_that_is_opened_anew_is_asking_in_memory(ledger_url: str, name: str):
    Ledger.create(ledger_url, "s", ["min"], SPEC).close()
    memory: list[FrozenTrial] = []
    for number in range(10):
        template, _ = propose(
            sampler_class(name)(SamplerSettings(startup=2)), number, [StudyDirection.MINIMIZE], memory, space
        )
        value = template.params["depth"] + template.params["lr"]
        template.state, template.value, template.datetime_complete = TrialState.COMPLETE, value, template.datetime_start
        memory.append(template)
        with contextlib.closing(Ledger.open(ledger_url, "s")) as opened:
            asked(opened, name)
            opened.tell(number, TrialState.COMPLETE, [value])
            assert opened.trials[number].params == template.params


def test_a_trials_record_is_read_back_as_it_was_written(ledger: Ledger):
    for _ in range(4):
        asked(ledger)
    ledger.report(0, 1, [0.25])
    ledger.report(0, 2, [1e-300])
    ledger.update_trial(0, failures=[FailedAttempt(Failure("lost", 'é "quoted"\n'), 1, "resume", "f00d")])
    ledger.tell(0, TrialState.COMPLETE, [0.1 + 0.2])
    ledger.violate(1, "out_of_memory")
    ledger.tell(1, TrialState.PRUNED, None)
    ledger.tell(2, TrialState.FAIL, None)
    ledger.set_run_id(0, "abc")
    found = reopened(ledger)
    assert found.trials == ledger.trials
    assert found.trials[0].intermediate_values == {1: 0.25, 2: 1e-300}
    assert found.trials[0].values == [0.1 + 0.2]
    assert found.trials[1].system_attrs == {"constraints:out_of_memory": 1.0}
    assert found.trials[1].constraints == {"out_of_memory": 1.0}
    assert [t.state.name for t in found.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [t.number for t in found.running()] == [3]
    assert (found.reported(0), found.reported(1)) == ({1, 2}, set())
    assert found.record.run_ids == {0: "abc"}


def test_writing_again_changes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    asked(ledger)

    def write() -> list[FrozenTrial]:
        ledger.report(0, 1, [0.5])
        ledger.update_trial(0, cause="so it is")
        ledger.violate(0, "non_finite")
        return reopened(ledger).trials

    first = write()
    assert write() == first == ledger.trials
    writes = Writes(monkeypatch)
    ledger.update_trial(0, cause="so it is")
    ledger.violate(0, "non_finite")
    assert writes.count == 0


def test_an_end_may_be_told_again_but_not_another(ledger: Ledger):
    ends: list[tuple[TrialState, list[float] | None]] = [
        (TrialState.COMPLETE, [0.5]),
        (TrialState.PRUNED, [0.5]),
        (TrialState.FAIL, None),
    ]
    for _ in ends:
        asked(ledger)
    stale = reopened(ledger)
    for number, end in enumerate(ends):
        ledger.tell(number, *end)
        for writer in (ledger, stale):
            writer.tell(number, *end)
            for other in ((end[0], [0.75]), (TrialState.COMPLETE, [0.25]), (TrialState.FAIL, [0.5])):
                with pytest.raises(UpdateFinishedTrialError):
                    writer.tell(number, *other)
        assert (stale.trials[number].state, stale.trials[number].values) == end


def test_a_successor_has_the_failed_trials_parameters_and_does_not_count(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    failed = asked(ledger)
    ledger.update_trial(0, failures=[FailedAttempt(Failure("error", "no"), 1, "fail", "f00d")])
    ledger.violate(0, "out_of_memory")
    ledger.tell(0, TrialState.FAIL, None)
    writes = Writes(monkeypatch)
    successor = ledger.create_retry(ledger.trials[0])
    assert writes.count == 1
    assert (successor.number, successor.state) == (1, TrialState.RUNNING)
    assert (successor.params, successor.distributions) == (failed.params, failed.distributions)
    assert successor.user_attrs["config"] == failed.user_attrs["config"]
    assert (successor.user_attrs["attempt"], successor.user_attrs["retry_of"]) == (1, 0)
    assert "failures" not in successor.user_attrs
    assert successor.constraints == {}
    assert (len(ledger.trials), ledger.searched()) == (2, 1)
    assert reopened(ledger).trials == ledger.trials


def test_a_successor_keeps_the_fingerprint_of_its_data(ledger: Ledger):
    asked(ledger)
    ledger.tell(0, TrialState.FAIL, None)
    assert ledger.create_retry(ledger.trials[0]).user_attrs["data"] == "f00d"


def test_several_objectives_keep_their_epochs_as_attributes(ledger_url: str):
    ledger = Ledger.create(ledger_url, "two", ["min", "max"], SPEC)
    assert ledger.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    asked(ledger)
    for _ in range(2):
        ledger.report(0, 1, [0.5, 2.0])
        ledger.report(0, 12, (0.25, 3.0))
    ledger.tell(0, TrialState.COMPLETE, [0.25, 3.0])
    found = Ledger.open(ledger_url, "two")
    assert found.trials[0].intermediate_values == {}
    assert found.trials[0].user_attrs["values:0012"] == [0.25, 3.0]
    assert found.reported(0) == ledger.reported(0) == {1, 12}
    assert found.trials[0].values == [0.25, 3.0]


@pytest.mark.parametrize(("mode", "expected"), [("min", 3), ("max", 2)])
def test_the_best_trial_is_complete_and_the_earliest_of_equals(ledger_url: str, mode: str, expected: int):
    ledger = Ledger.create(ledger_url, "s", [mode], SPEC)
    assert ledger.best() is None
    ends = [("PRUNED", -9.0), ("PRUNED", 9.0), ("COMPLETE", 3.0), ("COMPLETE", 1.0), ("COMPLETE", 1.0)]
    for number, (state, value) in enumerate([*ends, ("COMPLETE", 3.0), ("FAIL", None)]):
        asked(ledger)
        ledger.tell(number, TrialState[state], None if value is None else [value])
    asked(ledger)
    best = ledger.best()
    assert best is not None
    assert best.number == expected


@pytest.mark.parametrize(
    "url", ["sqlite:////tmp/l.db", "sqlite:///l.db", "postgresql://db/s", "postgresql://me@db:1/s"]
)
def test_a_url_without_a_password_is_taken(url: str):
    assert check_url(url) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://db/s", "must be sqlite:///FILE or postgresql://HOST/DB, got mysql://"),
        ("ledger.db", "must be sqlite:///FILE or postgresql://HOST/DB, got 'ledger.db'"),
        ("postgresql://me:secret@db/s", "must not contain a password"),
        ("postgresql://me:@db/s", "must not contain a password"),
        ("postgresql://db/s?user=me&password=secret", "must not contain a password"),
    ],
)
def test_a_url_of_another_database_or_with_a_password_is_refused(url: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_sqlite_writes_ahead_and_syncs_every_write(tmp_path: Path):
    ledger = Ledger.create(f"sqlite:///{tmp_path}/deep/ledger.db", "s", ["min"], SPEC)
    with contextlib.closing(sqlite3.connect(tmp_path / "deep" / "ledger.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with ledger._storage.engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar() == 2


def test_looking_for_a_file_that_is_not_there_makes_none(tmp_path: Path):
    with pytest.raises(UnknownSweepError, match=f"no ledger at {tmp_path}/ledger.db"):
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db", "s")
    assert Ledger.find(f"sqlite:///{tmp_path}/ledger.db", "s") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_new_database_is_made_by_many_at_once(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/new/ledger.db"
    if kind == "postgresql":
        server, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = f"{server}/{name}"
    code = """
import sys
from refsweep.orchestration.ledger.failure import FailedAttempt, Failure
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.records import SweepRecord
from refsweep.tests.help import asked as ask_for
print("ready", flush=True)
sys.stdin.readline()
Ledger.create(sys.argv[1], sys.argv[2], ["min"], {"name": sys.argv[2]})
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    makers = [subprocess.Popen([sys.executable, "-c", code, url, f"s{n}"], text=True, **pipes) for n in range(4)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()  # all begin in the same moment
    for maker in makers:
        assert maker.wait(60) == 0, maker.stderr.read() if maker.stderr else ""
    assert sweeps_in(url) == ["s0", "s1", "s2", "s3"]


def test_a_file_that_is_no_database_is_bad_input(tmp_path: Path):
    (tmp_path / "ledger.db").write_text("name: this is the spec, not the ledger\n" * 50)
    with pytest.raises(InputError, match="the ledger can't be opened"):
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db", "s")


def test_a_server_that_does_not_answer_is_bad_input():
    with pytest.raises(InputError, match="the ledger can't be opened"):
        Ledger.open("postgresql://me@127.0.0.1:1/s", "s")


def test_the_count_of_searched_trials_is_that_of_all_but_successors(ledger: Ledger):
    def slow() -> int:
        return sum("retry_of" not in t.user_attrs for t in ledger.trials)

    for turn in range(3):
        made = ask_for(ledger, lambda trial: {"x": trial.suggest_float("x", 0, 1)})
        assert ledger.searched() == slow() == turn + 1
        ledger.tell(made.number, TrialState.FAIL, None)
        ledger.create_retry(ledger.trials[made.number])
        assert ledger.searched() == slow() == turn + 1
    ledger.refresh()
    assert (ledger.searched(), len(ledger.trials)) == (3, 6)
