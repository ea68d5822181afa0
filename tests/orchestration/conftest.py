"""Ledgers for tests: on SQLite, and on a PostgreSQL server of our own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.storages import RDBStorage
from refsweep.orchestration.ledger import Ledger
from refsweep.tests.help import free_port


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server of our own, which the superuser may not run; yields its URL without a database."""
    places = [Path(shutil.which("initdb") or "").parent, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    programs = next((place for place in reversed(places) if (place / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("the superuser can't run PostgreSQL, and there is no user postgres")
    become: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.geteuid() == 0 else {}
    port, folder = free_port(), tempfile.mkdtemp()
    shutil.chown(folder, user)
    quietly: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **become}
    initdb = [programs / "initdb", "-D", folder, "-U", "me", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, **quietly)
    settings = ["-c", "fsync=off", "-c", "unix_socket_directories="]
    command = [programs / "postgres", "-D", folder, "-h", "127.0.0.1", "-p", str(port), *settings]
    server = subprocess.Popen(command, **quietly)
    url = f"postgresql://me@127.0.0.1:{port}"
    try:
        until = time.monotonic() + 30
        while not answers(f"{url}/postgres"):
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)
        with contextlib.closing(psycopg.connect(f"{url}/postgres", autocommit=True)) as connection:
            connection.execute("CREATE DATABASE tables")
        RDBStorage(f"{url}/tables").engine.dispose()  # copied for every test: making tables takes half a second
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)  # what it holds is thrown away
        server.wait(30)
        shutil.rmtree(folder)


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False


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
