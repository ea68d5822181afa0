"""The lease of a sweep: held by its one driver, free the moment that process is gone, without a time-to-live.

SQLite: `flock` beside the file, freed by the kernel. PostgreSQL: a session's advisory lock on a connection of its
own, freed by the server. Who only looks whether there is a driver never keeps one from starting.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from pathlib import Path
from typing import IO, Protocol

import sqlalchemy

from ...datasets.problems import InputError
from ..spec.locations import sqlite_path

TAKE_TIMEOUT_S = 1.0  # a look at the lock of a file is over in microseconds; a driver's stays


class LeaseTakenError(InputError):
    """Another driver runs this sweep."""


class Lease(Protocol):
    """Held while a driver runs; free the moment its process is gone."""

    def release(self) -> None:
        """Gives it back."""

    def held(self) -> bool:
        """Whether it still is."""


class FileLease:
    """`flock` on a file beside the SQLite file."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = open(path, "a")  # noqa: SIM115  open as long as the lease is held
        until = time.monotonic() + TAKE_TIMEOUT_S
        while not _locked(self._file, fcntl.LOCK_EX):
            if time.monotonic() > until:
                self._file.close()
                raise LeaseTakenError("")
            time.sleep(0.002)

    def release(self) -> None:
        """Gives it back."""
        self._file.close()

    def held(self) -> bool:
        """Whether it still is."""
        return not self._file.closed

    @staticmethod
    def taken(path: Path) -> bool:
        """Whether some process holds it."""
        try:
            with open(path) as file:
                return not _locked(file, fcntl.LOCK_SH)  # those who look share it
        except FileNotFoundError:
            return False


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class PostgresLease:
    """A session's advisory lock on a connection of its own."""

    KEY = "hashtextextended(:sweep, 0)"

    def __init__(self, engine: sqlalchemy.Engine, sweep: str) -> None:
        self._connection = engine.connect()
        taken = sqlalchemy.text(f"SELECT pg_try_advisory_lock({self.KEY})")
        if not self._connection.execute(taken, {"sweep": f"refsweep/{sweep}"}).scalar():
            self._connection.close()
            raise LeaseTakenError("")
        self._connection.commit()

    def release(self) -> None:
        """Gives it back."""
        self._connection.invalidate()
        self._connection.close()

    def held(self) -> bool:
        """Whether it still is."""
        try:
            self._connection.execute(sqlalchemy.text("SELECT 1"))
            self._connection.commit()
        except sqlalchemy.exc.SQLAlchemyError:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                self._connection.invalidate()
            return False
        return True

    @classmethod
    def taken(cls, engine: sqlalchemy.Engine, sweep: str) -> bool:
        """Whether some session holds it: the server's own list says so."""
        look = sqlalchemy.text(
            "SELECT EXISTS (SELECT FROM pg_locks, pg_database,"  # noqa: S608  no input in it
            f" (SELECT {cls.KEY} AS key) AS wanted"
            " WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            " AND database = pg_database.oid AND datname = current_database()"
            " AND classid::bigint = (key >> 32) & 4294967295 AND objid::bigint = key & 4294967295)"
        )
        with engine.connect() as connection:
            return bool(connection.execute(look, {"sweep": f"refsweep/{sweep}"}).scalar())


class SweepLease:
    """The lease of one sweep, as this process sees it: held by us, by another process, or by nobody."""

    def __init__(self, url: str, engine: sqlalchemy.Engine, sweep: str) -> None:
        self._engine, self._sweep = engine, sweep
        path = sqlite_path(url)
        self._file = path.with_name(f"{path.name}.{sweep}.lease") if path else None
        self._lease: Lease | None = None
        self._thread = 0

    def take(self) -> None:
        """Takes it. Raises LeaseTakenError when another process has it."""
        try:
            self._lease = FileLease(self._file) if self._file else PostgresLease(self._engine, self._sweep)
        except LeaseTakenError:
            raise self._refusal() from None
        self._thread = threading.get_ident()

    def release(self) -> None:
        """Gives it back, if we have it."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def held(self) -> bool:
        """Whether we have it."""
        return self._lease is not None and self._lease.held()

    def taken(self) -> bool:
        """Whether some process has it."""
        if self._lease is not None:
            return self._lease.held()
        return FileLease.taken(self._file) if self._file else PostgresLease.taken(self._engine, self._sweep)

    def refuse_if_taken(self) -> None:
        """Raises LeaseTakenError when some process has it."""
        if self.taken():
            raise self._refusal()

    @property
    def taken_by_this_thread(self) -> bool:
        """Whether this thread took it: the only one that may take it again."""
        return self._lease is not None and threading.get_ident() == self._thread

    def _refusal(self) -> LeaseTakenError:
        hint = "watch it with `sweep status`, end it with `sweep stop`"
        return LeaseTakenError(f"sweep {self._sweep!r} has a driver already: {hint}")
