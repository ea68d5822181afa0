"""The lease of a sweep in PostgreSQL: a session's advisory lock, which the server frees with that session.

A session whose client is gone without a word (its host lost power, a network that drops packets, a proxy that holds
the connection open) would live for hours. So the server ends the session once it was silent for `IDLE_TIMEOUT_S`, and
its owner asks it something every `PING_EVERY_S`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from typing import Any

import sqlalchemy

from ...datasets.problems import InputError
from ..spec.errors import LeaseTakenError

IDLE_TIMEOUT_S = 45.0  # after this silence of its owner a lease is free
PING_EVERY_S = 10.0
PING_TIMEOUT_S = 25.0  # a question that has no answer by then was lost
LEAST_VERSION = 14  # the first with idle_session_timeout


class PostgresLease:
    """A session's advisory lock on a connection of its own."""

    KEY = "hashtextextended(:sweep, 0)"

    def __init__(self, engine: sqlalchemy.Engine, sweep: str) -> None:
        """Raises LeaseTakenError when another session has it, InputError for a server that is too old."""
        self._engine = engine
        self._lock, self._lost, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        driver = self._connection.connection.driver_connection
        assert driver is not None
        self._socket = socket.socket(fileno=os.dup(driver.fileno()))  # ours: the driver's number may be used again
        try:
            _refuse_old(self._connection)
            self._connection.execute(sqlalchemy.text(f"SET idle_session_timeout = {int(IDLE_TIMEOUT_S * 1000)}"))
            taken = sqlalchemy.text(f"SELECT pg_try_advisory_lock({self.KEY})")
            if not self._connection.execute(taken, {"sweep": f"refsweep/{sweep}"}).scalar():
                raise LeaseTakenError("")
        except (InputError, sqlalchemy.exc.SQLAlchemyError):
            self.release()
            raise
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def release(self) -> None:
        """Gives it back."""
        self._closed.set()
        self._lost.set()
        if not self._lock.acquire(timeout=1.0):  # somebody waits for an answer
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._lock.acquire()
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            self._connection.invalidate()
            self._connection.close()
        self._socket.close()
        self._lock.release()

    def held(self) -> bool:
        """Whether it still is: asks the server."""
        if self._lost.is_set():
            return False
        if not self._lock.acquire(timeout=PING_TIMEOUT_S):
            self._cut()  # who asked before waits for an answer that does not come
            return False
        try:
            if self._lost.is_set():
                return False
            self._connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.SQLAlchemyError:
            self._lost.set()
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                self._connection.invalidate()
            return False
        finally:
            self._lock.release()
        return True

    def lost(self) -> bool:
        """Whether it is known to be lost, without asking."""
        return self._lost.is_set()

    def _keep(self) -> None:
        """Asks again and again, so that the server does not take the owner for gone."""
        while not self._closed.wait(PING_EVERY_S):
            patience = threading.Timer(PING_TIMEOUT_S, self._cut)
            patience.daemon = True
            patience.start()
            held = self.held()
            patience.cancel()
            if not held:
                return

    def _cut(self) -> None:
        """The way to the server is dead: breaks this process's connections, so that nobody waits on one for ever."""
        self._lost.set()
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            cut_connections(self._engine)

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


def _refuse_old(connection: sqlalchemy.Connection) -> None:
    version = int(str(connection.execute(sqlalchemy.text("SHOW server_version_num")).scalar())) // 10_000
    if version < LEAST_VERSION:
        raise InputError(
            f"ledger: PostgreSQL must be {LEAST_VERSION} or later, which ends silent sessions; got {version}"
        )


# -- connections -------------------------------------------------------------------------------------------

_watched: weakref.WeakKeyDictionary[sqlalchemy.Engine, dict[int, socket.socket]] = weakref.WeakKeyDictionary()


def watch_connections(engine: sqlalchemy.Engine) -> None:
    """Prepares an engine for `cut_connections`, and lets the server end a transaction that its client has left open:
    it would keep the next driver waiting."""
    sockets: dict[int, socket.socket] = {}

    def connected(connection: Any, record: Any) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_TIMEOUT_S * 1000)}")
        connection.commit()
        sockets[id(connection)] = socket.socket(fileno=os.dup(connection.fileno()))

    def closed(connection: Any, record: Any) -> None:
        known = sockets.pop(id(connection), None)
        if known is not None:
            known.close()

    sqlalchemy.event.listen(engine, "connect", connected)
    sqlalchemy.event.listen(engine, "close", closed)
    _watched[engine] = sockets


def cut_connections(engine: sqlalchemy.Engine) -> None:
    """Shuts the connections of an engine, those too on which somebody waits for an answer."""
    for known in list(_watched.get(engine, {}).values()):
        with contextlib.suppress(OSError):
            known.shutdown(socket.SHUT_RDWR)
