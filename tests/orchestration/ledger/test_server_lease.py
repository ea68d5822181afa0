"""The lease in PostgreSQL when its owner's host or the network between is gone. Times are scaled down."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger import server_lease
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.errors import LeaseTakenError, LedgerUnavailableError
from refsweep.tests.help import asked as ask_for
from refsweep.tests.orchestration.ledger.leases import takes, within

pytestmark = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
IDLE_S, PING_S, PATIENCE_S = 1.5, 0.3, 0.9


class Proxy:
    """Between a client and a server. `silent` drops whatever comes and keeps every connection open."""

    def __init__(self, host: str, port: int) -> None:
        self._target, self.silent = (host, port), False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=[client, server], daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    content = ready.recv(2**16)
                    if self.silent:
                        if not content:
                            time.sleep(0.05)
                        continue
                    if not content:
                        client.close()
                        server.close()
                        return
                    (server if ready is client else client).sendall(content)

    def close(self) -> None:
        self._listener.close()
        for known in self._sockets:
            with contextlib.suppress(OSError):
                known.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_lease, "IDLE_TIMEOUT_S", IDLE_S)
    monkeypatch.setattr(server_lease, "PING_EVERY_S", PING_S)
    monkeypatch.setattr(server_lease, "PING_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def proxied(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ledger, Proxy]]:
    """The sweep's driver, far from its server."""
    place = urlsplit(ledger.url)
    passwords = tmp_path / "pgpass"
    passwords.write_text(Path(os.environ["PGPASSFILE"]).read_text().replace(f":{place.port}:", ":*:"))
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert place.hostname is not None
    assert place.port is not None
    proxy = Proxy(place.hostname, place.port)
    far = Ledger.open(ledger.url.replace(f":{place.port}/", f":{proxy.port}/") + "?sslmode=disable", "s")
    yield far, proxy
    proxy.close()
    far.close()


def test_a_driver_that_lives_keeps_its_lease_however_little_it_does(ledger: Ledger):
    ledger.take_lease()
    reader = Ledger.open(ledger.url, "s")
    until = time.monotonic() + 2 * IDLE_S
    while time.monotonic() < until:
        assert reader.has_driver()
        time.sleep(0.1)
    ledger.watch()
    assert ledger.term == 1, "it was never lost"
    reader.close()


@pytest.mark.usefixtures("scaled")
def test_behind_a_network_that_drops_everything_a_lease_is_free_in_time_and_its_owner_ends(
    ledger: Ledger, proxied: tuple[Ledger, Proxy]
):
    far, proxy = proxied
    far.take_lease()
    ask_for(far, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})
    proxy.silent = True
    assert not takes(ledger), "nobody knows yet"
    assert within(IDLE_S + 2, lambda: takes(ledger)), "the server has ended the silent session"
    ledger.update_trial(0, attempt=2)
    assert within(PING_S + 2 * PATIENCE_S + 2, far._lease.lost), "its owner has noticed, too"
    proxy.silent = False
    with pytest.raises(LeaseTakenError):
        far.report(0, 1, [-999.0])
    with pytest.raises(LeaseTakenError):
        far.still_ours()
    ledger.refresh()
    assert ledger.trials[0].intermediate_values == {}


def test_a_write_that_waits_for_an_answer_that_never_comes_ends_and_the_next_driver_need_not_wait_for_it(
    ledger: Ledger, proxied: tuple[Ledger, Proxy]
):
    far, proxy = proxied
    far.take_lease()
    ask_for(far, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})
    ended = threading.Event()

    def write() -> None:
        with contextlib.suppress(StorageInternalError, InputError), far._writer._transaction() as connection:
            proxy.silent = True  # holding the row of the term
            connection.execute(sqlalchemy.text("SELECT 1"))
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    assert within(2, lambda: proxy.silent)
    assert within(2 * IDLE_S + 3, lambda: takes(ledger))
    assert ended.wait(PING_S + 2 * PATIENCE_S + 3)


def test_a_driver_that_was_frozen_takes_its_lease_again_when_nobody_else_did(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_lease, "PING_EVERY_S", 3600.0)  # what a stopped process asks
    ledger.take_lease()
    ask_for(ledger, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)})
    reader = Ledger.open(ledger.url, "s")
    assert within(IDLE_S + 2, lambda: not reader.has_driver())
    ledger.report(0, 1, [0.5])  # still the newest term
    assert within(5, ledger.still_ours)
    assert (ledger.term, ledger.overtaken) == (2, 0)
    assert reader.has_driver()
    reader.close()


def test_a_session_of_our_own_that_the_server_still_holds_is_no_other_driver(ledger: Ledger):
    ledger.take_lease()
    stale = ledger._lease._lease
    assert stale is not None
    ledger._lease._lease = None  # as if its connection had broken without the server's noticing
    assert not ledger.still_ours()
    ledger.update_sweep(forgiven=3)
    stale.release()
    assert within(5, ledger.still_ours)
    assert ledger.overtaken == 0


def test_a_server_that_can_not_end_silent_sessions_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_lease, "LEAST_VERSION", 99)
    with pytest.raises(InputError, match=r"ledger: PostgreSQL must be 99 or later, .*; got \d+$"):
        ledger.take_lease()
    assert not ledger.has_driver()


def test_a_server_that_is_away_when_the_lease_is_taken_is_said_in_a_line(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("connection refused\nIs the server running?"))

    monkeypatch.setattr("refsweep.orchestration.ledger.lease.PostgresLease", away)
    with pytest.raises(LedgerUnavailableError, match=r"the ledger can't be reached: .*connection refused$"):
        ledger.take_lease()
    assert not ledger.still_ours()
