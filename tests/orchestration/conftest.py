"""Ledgers for tests: on SQLite, and on a PostgreSQL server of our own."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from optuna.storages import RDBStorage
from refsweep.cluster.programs import MissingError
from refsweep.cluster.servers import Postgres
from refsweep.orchestration.ledger.ledger import Ledger


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server of our own; yields its URL without a database, whose password is where PGPASSFILE says."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        folder.chmod(0o711)  # the superuser may not run it, and another user must reach its data
        try:
            server = Postgres(folder / "data", folder / "log", folder / "pgpass")
        except MissingError as error:
            pytest.skip(str(error))
        patch.setenv("PGPASSFILE", str(server.passwords))
        try:
            server.make(("tables",))
            RDBStorage(server.url("tables")).engine.dispose()  # copied for every test: tables take half a second
            yield server.url("").rstrip("/")
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a ledger that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    server, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE tables")
    return f"{server}/{name}"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """Of a new sweep `s` that minimises one value."""
    made = Ledger.create(ledger_url, "s", ["min"], {"name": "s"})
    yield made
    made.close()
