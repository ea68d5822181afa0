"""The lease of a sweep: held by its one driver, free the moment that process is gone, without a time-to-live.

SQLite: `flock` beside the file, freed by the kernel. PostgreSQL: a session's advisory lock on a connection of its
own, freed by the server. Who only looks whether there is a driver never keeps one from starting.

A lease can be lost without a word: its file deleted, its session ended. So it only says who may try to write; that
nobody else does is the business of the term, which every write compares (`sql`).
"""

from __future__ import annotations

import threading
from typing import Protocol

import sqlalchemy

from ..spec.errors import LeaseTakenError as LeaseTakenError
from ..spec.locations import sqlite_path
from .file_lease import FileLease
from .server_lease import PostgresLease


class Lease(Protocol):
    """Held while a driver runs; free the moment its process is gone."""

    def release(self) -> None:
        """Gives it back."""

    def held(self) -> bool:
        """Whether it still is."""

    def lost(self) -> bool:
        """Whether it is known to be lost: costs nothing."""


class SweepLease:
    """The lease of one sweep, as this process sees it: held by us, by another process, or by nobody."""

    def __init__(self, url: str, engine: sqlalchemy.Engine, sweep: str) -> None:
        self._engine, self._sweep = engine, sweep
        path = sqlite_path(url)
        self._file = path.with_name(f"{path.name}.{sweep}.lease") if path else None
        self._lease: Lease | None = None
        self._thread = 0

    def take(self) -> None:
        """Takes it, instead of the one that we had. Raises LeaseTakenError when another process has it."""
        if self._lease is not None:
            self._lease.release()
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

    def lost(self) -> bool:
        """Whether we had it and are known to have lost it: costs nothing."""
        return self._lease is not None and self._lease.lost()

    def taken(self) -> bool:
        """Whether some process has it."""
        if self.held():
            return True
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
