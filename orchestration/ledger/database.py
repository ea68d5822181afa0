"""Opens the database of a ledger: SQLite in WAL mode, or PostgreSQL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full
from ..spec.errors import LedgerUnavailableError
from ..spec.locations import check_url, sqlite_path
from .quiet import quiet

SQLITE_TIMEOUT_S = 60  # how long a write waits for another process's
# libpq waits for ever for a server that accepts connections and does not answer, and a quarter of an hour for one whose
# host is gone
POSTGRES_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class UnknownSweepError(InputError):
    """There is no sweep of that name, or no ledger."""


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Optuna's storage at a ledger URL; `create` makes a SQLite file that is missing. Raises UnknownSweepError where
    there is no file, LedgerUnavailableError for a database that can't be opened."""
    path = sqlite_path(check_url(url))
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": POSTGRES_TIMEOUTS}
    if path is not None:
        if not path.exists() and not create:
            raise UnknownSweepError(f"no ledger at {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}
    try:
        with _one_at_a_time(path), quiet():
            if path is not None:
                with contextlib.closing(sqlite3.connect(path, timeout=SQLITE_TIMEOUT_S)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; synchronous is FULL by default
            try:
                return RDBStorage(url, engine_kwargs=options)
            except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
                time.sleep(1.0)  # another process makes the same tables
                return RDBStorage(url, engine_kwargs=options)
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.DatabaseError, StorageInternalError) as error:
        why = f"no space left on the disk of {path}" if is_full(path, error) else first_line(error)
        raise LedgerUnavailableError(f"the ledger can't be opened: {why}") from error


@contextlib.contextmanager
def _one_at_a_time(path: Path | None) -> Iterator[None]:
    """Whoever opens a SQLite file makes its tables, and Optuna does not expect that another process does so too."""
    if path is None:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)  # not the file: closing it again would drop SQLite's own locks
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def is_full(path: Path | None, error: Exception) -> bool:
    """Whether the disk of a SQLite file is full, which SQLite calls an I/O error when its index can't grow."""
    return path is not None and (is_disk_full(error) or shutil.disk_usage(path.parent).free < 2**16)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def sweeps_in(url: str) -> list[str]:
    """Names of the sweeps in a ledger. Raises as `open_storage` does."""
    storage = open_storage(url, create=False)
    return sorted(study.study_name for study in storage.get_all_studies())
