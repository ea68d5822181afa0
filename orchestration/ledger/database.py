"""Opens the database of a ledger: SQLite in WAL mode, or PostgreSQL. To write, or only to read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full
from ..spec.errors import LedgerUnavailableError
from ..spec.locations import check_url, sqlite_path
from . import sqlite_file
from .quiet import quiet
from .schema import is_ledger
from .server_lease import watch_connections

# libpq waits for ever for a server that accepts connections and does not answer, and a quarter of an hour for one whose
# host is gone
POSTGRES_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class UnknownSweepError(InputError):
    """There is no sweep of that name, or no ledger."""


class LedgerAwayError(LedgerUnavailableError, StorageInternalError):
    """The database was away, or locked by another process, for longer than a driver waits."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A database that is open."""

    storage: RDBStorage
    copy: tempfile.TemporaryDirectory[str] | None = None  # where it lies, when it can't be read in its place

    def study(self, sweep: str) -> int | None:
        """The id of a sweep's study, None where there is none."""
        try:
            study_id = int(self.storage.get_study_id_from_name(sweep))
        except KeyError:
            return None
        return study_id if "spec" in self.storage.get_study_user_attrs(study_id) else None

    def sweeps(self) -> list[str]:
        """Names of the sweeps."""
        return sorted(s.study_name for s in self.storage.get_all_studies() if "spec" in s.user_attrs)

    def close(self) -> None:
        """Closes connections, and deletes the copy."""
        self.storage.remove_session()
        self.storage.engine.dispose()
        if self.copy is not None:
            self.copy.cleanup()


def open_storage(url: str, *, create: bool) -> Opened:
    """The database at a ledger URL, to write; `create` makes a SQLite file that is missing. Raises UnknownSweepError
    where there is no file, LedgerUnavailableError for a database that can't be opened or that is another program's."""
    path = sqlite_path(check_url(url))
    if path is not None and not path.exists() and not create:
        raise UnknownSweepError(f"no ledger at {path}")
    with _plainly(path), quiet():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if path is not None:
                _prepare(path)
                return Opened(_storage(url, path, "rw"))
            _look(url)
            try:
                return Opened(_storage(url, None, "rw"))
            except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
                time.sleep(1.0)  # another process makes the same tables
                return Opened(_storage(url, None, "rw"))


def open_for_reading(url: str) -> Opened:
    """The database at a ledger URL, only to read: nothing of it changes, and its user may lack the right to. Raises as
    `open_storage` does."""
    path = sqlite_path(check_url(url))
    nothing = UnknownSweepError(f"no ledger at {path or url}")
    with _plainly(path), quiet():
        if path is None:
            if not _look(url):
                raise nothing
            return Opened(_storage(url, None, "ro"))
        if not path.exists():
            raise nothing
        try:
            if not sqlite_file.check(path, "ro"):
                raise nothing
            return Opened(_storage(url, path, "ro"))
        except (sqlite3.OperationalError, sqlalchemy.exc.OperationalError) as error:
            if "locked" in str(error):
                raise
            copy = sqlite_file.copied(path)
            return Opened(_storage(url, Path(copy.name, path.name), "rw"), copy)


def _prepare(path: Path) -> None:
    """Checks a SQLite file, or makes it, and has it write ahead."""
    with contextlib.closing(sqlite3.connect(path, timeout=sqlite_file.TIMEOUT_S)) as connection:
        sqlite_file.check(path, "rw")
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; synchronous is FULL by default


def _storage(url: str, path: Path | None, mode: str) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": POSTGRES_TIMEOUTS}
    if path is not None:
        # never makes a file: one that was deleted is missed, not replaced by an empty one
        url, options = "sqlite:///ledger", {"creator": lambda: sqlite_file.connect(path, mode)}
    storage = RDBStorage(
        url,
        engine_kwargs=options,
        skip_compatibility_check=True,  # checked before
        skip_table_creation=mode == "ro",
    )
    if path is None:
        watch_connections(storage.engine)
        storage.engine.dispose()  # those that were made before
    return storage


def _look(url: str) -> bool:
    """Whether a server's database holds a ledger, see `is_ledger`."""
    engine = sqlalchemy.create_engine(url, connect_args=POSTGRES_TIMEOUTS, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        revision = None
        if "alembic_version" in tables:
            revision = connection.execute(sqlalchemy.text("SELECT * FROM alembic_version")).scalar()
    return is_ledger(tables, revision, url, shared=True)


@contextlib.contextmanager
def _plainly(path: Path | None) -> Iterator[None]:
    """Says in one line why a database can't be opened."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        raise LedgerUnavailableError(f"the ledger can't be opened: {why}") from error
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, StorageInternalError) as error:
        raise LedgerUnavailableError(f"the ledger can't be opened: {reason(path, error)}") from error


def reason(path: Path | None, error: Exception) -> str:
    """Why a database can't be used, in a line."""
    if is_full(path, error):
        return f"no space left on the disk of {path}"
    line = first_line(error)
    if path is not None and "locked" in line:
        return f"another process has kept {path} locked ({line})"
    return line


@contextlib.contextmanager
def _one_at_a_time(path: Path | None) -> Iterator[None]:
    """Whoever opens a SQLite file makes its tables, and Optuna does not expect that another process does so too."""
    if path is None:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)  # not the file: closing it again would drop SQLite's own locks
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the lease refuses it, in its words
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
    """Names of the sweeps in a ledger. Raises as `open_for_reading` does."""
    with contextlib.closing(open_for_reading(url)) as opened:
        return opened.sweeps()
