"""Opening a ledger: damaged files, other programs' databases, other versions, and users who may only read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger import ledger as ledger_module
from refsweep.orchestration.ledger import sqlite_file
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.status import list_sweeps, status
from refsweep.orchestration.spec.errors import LedgerUnavailableError
from refsweep.orchestration.spec.read import make_spec
from refsweep.tests.help import asked as ask_for

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
SPEC: dict[str, Any] = {
    "name": "s",
    "trainable": "toy",
    "data": "none",
    "objective": {"metric": "loss", "mode": "min"},
    "search": {"trials": 6},
}


def filled(url: str) -> Ledger:
    ledger = Ledger.create(url, "s", ["min"], make_spec(SPEC).as_json())
    ledger.take_lease()
    for number in range(6):
        ask_for(ledger, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})
        ledger.report(number, 1, [0.5])
        ledger.update_sweep(state="running", forgiven=number)
        ledger.tell(number, TrialState.COMPLETE, [number / 2])
    return ledger


def content(url: str, *, readonly: bool) -> str:
    with contextlib.closing(Ledger.open(url, "s", readonly=readonly)) as ledger:
        return json.dumps(status(ledger), sort_keys=True)


def said(url: str, *, readonly: bool) -> str:
    """The status of a ledger, or why it can't be read."""
    try:
        return content(url, readonly=readonly)
    except InputError as error:
        return str(error)


# -- damage ------------------------------------------------------------------------------------------------


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Files as bad disks, full disks and careless copies leave them."""
    rng = random.Random(0)
    page = 4096
    for share in (0.1, 0.5, 0.9):
        yield f"cut at {share}", whole[: int(len(whole) * share)]
    for _ in range(10):
        at = rng.randrange(len(whole) // page) * page
        yield f"page {at // page} of zeros", whole[:at] + bytes(page) + whole[at + page :]
    for _ in range(25):
        at = rng.randrange(len(whole) // page) * page + rng.randrange(64)  # where a page says what it holds
        yield f"byte {at}", whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    yield "another page's content", whole[:page] + whole[2 * page : 3 * page] + whole[2 * page :]


def test_a_damaged_file_is_said_in_a_line_or_harmless(tmp_path: Path):
    filled(f"sqlite:///{tmp_path}/ledger.db").close()
    whole = (tmp_path / "ledger.db").read_bytes()
    expected = content(f"sqlite:///{tmp_path}/ledger.db", readonly=True)
    refused = 0
    for number, (what, damaged) in enumerate(damages(whole)):
        path = tmp_path / f"{number}.db"
        path.write_bytes(damaged)
        for readonly in (True, False):
            found = said(f"sqlite:///{path}", readonly=readonly)
            if found != expected:
                assert found.count("\n") == 0, what
                assert str(path) in found, what
                assert found.startswith("the ledger "), what
                refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE study_user_attributes SET value_json = '{\"name\"' WHERE key = 'spec'",
        "UPDATE study_user_attributes SET value_json = '\"sleeping\"' WHERE key = 'state'",
        "UPDATE study_user_attributes SET value_json = '{}' WHERE key = 'spec'",
        "UPDATE trial_user_attributes SET value_json = '[{\"x\": 1}]' WHERE key = 'config'",
        "DELETE FROM trial_user_attributes WHERE key = 'config'",
        "UPDATE trial_params SET distribution_json = 'none'",
        "UPDATE trials SET state = 'LOST'",
    ],
)
def test_rows_that_no_sweep_writes_are_said_in_a_line_or_harmless(ledger_url: str, statement: str):
    ledger = filled(ledger_url)
    try:
        with ledger._storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))
    except sqlalchemy.exc.SQLAlchemyError:
        ledger.close()
        return  # a server that knows the type
    ledger.close()
    found = said(ledger_url, readonly=True)
    assert "\n" not in found
    # what the status does not show need not be right for it
    assert found.startswith("the ledger ") or "config" in statement


# -- whose it is -------------------------------------------------------------------------------------------


def make_tables(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def drop_all(url: str) -> None:
    if url.startswith("postgresql"):
        make_tables(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


MLFLOW = ["CREATE TABLE experiments (a INT)", "CREATE TABLE runs (a INT)"]
REVISION = "CREATE TABLE alembic_version (version_num VARCHAR(32))"


def test_mlflows_database_is_no_ledger(ledger_url: str):
    drop_all(ledger_url)
    make_tables(ledger_url, *MLFLOW, REVISION, "INSERT INTO alembic_version VALUES ('bd07f7e963c5')")
    for opened in (
        lambda: Ledger.create(ledger_url, "s", ["min"], SPEC),
        lambda: Ledger.open(ledger_url, "s"),
        lambda: list_sweeps(ledger_url),
    ):
        with pytest.raises(LedgerUnavailableError, match="is MLflow's database: ledger and tracking must be two") as e:
            opened()
        assert "\n" not in str(e.value)
    names = sqlalchemy.inspect(sqlalchemy.create_engine(ledger_url)).get_table_names()
    assert sorted(names) == ["alembic_version", "experiments", "runs"], "nothing of ours was added"


@pytest.mark.parametrize("table", ["photographs", "alembic_version"])
def test_another_programs_file_is_left_as_it_is(tmp_path: Path, table: str):
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    make_tables(url, f"CREATE TABLE {table} (a INT)")
    before = path.read_bytes()
    with pytest.raises(
        LedgerUnavailableError, match=f"must be a ledger or empty, got another program's tables: {table}"
    ):
        Ledger.create(url, "s", ["min"], SPEC)
    assert path.read_bytes() == before


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_a_servers_database_may_hold_other_tables_beside(ledger_url: str):
    drop_all(ledger_url)
    make_tables(ledger_url, "CREATE TABLE photographs (a INT)")
    Ledger.create(ledger_url, "s", ["min"], SPEC).close()
    assert Ledger.open(ledger_url, "s", readonly=True).record.spec == SPEC


@pytest.mark.parametrize(("revision", "words"), [("v99.0.0.a", "a newer version"), ("v3.0.0.a", "an older version")])
def test_another_versions_tables_are_said_in_a_line(ledger_url: str, revision: str, words: str):
    filled(ledger_url).close()
    make_tables(ledger_url, f"UPDATE alembic_version SET version_num = '{revision}'")  # noqa: S608
    for readonly in (True, False):
        with pytest.raises(LedgerUnavailableError, match=rf"was made by {words} of Optuna \({revision}; this is") as e:
            Ledger.open(ledger_url, "s", readonly=readonly)
        assert "\n" not in str(e.value)


def test_a_spec_with_one_database_for_ledger_and_tracking_is_refused(tmp_path: Path):
    words = "tracking: must be another database than the ledger, got sqlite:///.* for both"
    with pytest.raises(InputError, match=words):
        make_spec({**SPEC, "storage": str(tmp_path), "tracking": f"sqlite:///{tmp_path}/ledger.db"})
    with pytest.raises(InputError, match=words):
        make_spec({**SPEC, "storage": str(tmp_path), "ledger": f"sqlite:///{tmp_path}/mlflow.db"})


# -- only to read ------------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(*words: str) -> str:
    """What the command line prints for a user who owns nothing."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    code = "import sys; from refsweep.orchestration.cli.main import run_command; sys.exit(run_command())"
    found = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code, *words],
        env={**os.environ, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Permission denied: '" + str(Path(__file__).parents[3]) in found.stderr:
        pytest.skip("the code is not readable for other users")
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("running", [True, False])
def test_who_may_not_write_sees_how_a_sweep_stands_with_what_is_in_its_log(open_folder: Path, running: bool):
    url = f"sqlite:///{open_folder}/ledger.db"
    ledger = filled(url)
    expected = status(ledger)
    if not running:
        ledger.close()
        expected["state"], expected["budget"] = "stopped", status(Ledger.open(url, "s", readonly=True))["budget"]
    before = {p.name: p.read_bytes() for p in open_folder.iterdir() if not p.name.endswith("-shm")}
    found = json.loads(as_nobody("sweep", "status", "s", "--storage", str(open_folder), "--json"))
    assert (found["trials"], found["state"]) == (expected["trials"], expected["state"])
    after = {p.name: p.read_bytes() for p in open_folder.iterdir() if not p.name.endswith("-shm")}
    assert after == before
    ledger.close()


def test_a_copy_holds_what_the_log_held_and_is_gone_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = filled(url)
    assert (tmp_path / "ledger.db-wal").stat().st_size > 0
    connect = sqlite_file.connect

    def readonly(path: Path, mode: str) -> sqlite3.Connection:
        if path.parent == tmp_path and mode == "ro":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, mode)

    monkeypatch.setattr(sqlite_file, "connect", readonly)
    found = Ledger.open(url, "s", readonly=True)
    assert found.trials == ledger.trials
    assert found._opened.copy is not None
    copy = Path(found._opened.copy.name)
    assert copy.is_dir()
    found.close()
    assert not copy.exists()
    assert [row["name"] for row in list_sweeps(url)] == ["s"]
    ledger.close()


def test_a_copy_that_was_torn_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(f"sqlite:///{tmp_path}/ledger.db").close()
    copyfile, torn = shutil.copyfile, [True, True]

    def tearing(source: str, target: str) -> None:
        copyfile(source, target)
        if torn:
            torn.pop()
            Path(target).write_bytes(Path(target).read_bytes()[:9000])

    monkeypatch.setattr("refsweep.orchestration.ledger.sqlite_file.shutil.copyfile", tearing)
    monkeypatch.setattr("refsweep.orchestration.ledger.sqlite_file.time.sleep", lambda _: None)
    with sqlite_file.copied(tmp_path / "ledger.db") as folder:
        assert sqlite_file.check(Path(folder, "ledger.db"), "ro")
    assert torn == []


def test_looking_at_a_sweep_writes_nothing(ledger_url: str):
    ledger = filled(ledger_url)
    wrote: list[str] = []
    found = Ledger.open(ledger_url, "s", readonly=True)
    sqlalchemy.event.listen(
        found._storage.engine, "before_cursor_execute", lambda *words: wrote.append(str(words[2]).lstrip()[:6].upper())
    )
    status(found)
    found.refresh()
    assert wrote
    assert set(wrote) <= {"SELECT", "PRAGMA"}
    found.close()
    ledger.close()


# -- locked ------------------------------------------------------------------------------------------------


def test_a_ledger_that_another_process_keeps_locked_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite_file, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(ledger_module, "RETRY_TIMEOUT_S", 0.1)
    monkeypatch.setattr("refsweep.orchestration.ledger.ledger.time.sleep", lambda _: None)
    ledger = filled(f"sqlite:///{tmp_path}/ledger.db")
    ledger._storage.engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        for what in (
            lambda: ledger.update_sweep(forgiven=77),
            lambda: Ledger.open(ledger.url, "s"),
            lambda: Ledger.open(ledger.url, "s", readonly=True),
        ):
            with pytest.raises(
                LedgerUnavailableError, match=f"another process has kept {tmp_path}/ledger.db locked"
            ) as e:
                what()
            assert "\n" not in str(e.value)
        other.execute("ROLLBACK")
    ledger.close()
