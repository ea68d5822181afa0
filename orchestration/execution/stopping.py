"""Requests to stop a sweep: Ctrl-C, SIGTERM, and the mark that `sweep stop` leaves beside the checkpoints.

The mark reaches trials that the driver can't talk to. A driver removes it once, right after it has taken the lease:
what is there then was meant for an earlier driver. `sweep stop` writes it again for as long as it is missing, so that
no request is lost, whatever the driver is doing: before the first trial it ends at once, later its trials write
checkpoints first.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...datasets.storage.store import Store
from ..search.protocol import STOP_MARK
from ..spec.errors import StopRequestedError

STOP_POLL_S = 2.0


class StopWatch:
    """Looks every two seconds whether a sweep's folder holds the mark, and calls `seen` once it does. Nobody waits for
    the answer, not even while the storage is away."""

    def __init__(self, folder: str, seen: Callable[[], None] = lambda: None) -> None:
        self._store, self._seen, self._closed = Store(folder), threading.Event(), threading.Event()
        self._tell, self._telling = seen, threading.Lock()
        self._thread = threading.Thread(target=self._look, name="stop-watch", daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        return self._seen.is_set()

    def close(self) -> None:
        """Looks no more, and calls `seen` no more."""
        with self._telling:
            self._closed.set()

    def look(self) -> bool:
        """Whether the mark is there now; False while the storage is away."""
        with contextlib.suppress(OSError):  # training goes on
            if self._store.exists(STOP_MARK):
                self._seen.set()
        return self._seen.is_set()

    def _look(self) -> None:
        while not self._closed.wait(STOP_POLL_S):
            if self.look():
                with self._telling:
                    if not self._closed.is_set():
                        self._tell()
                return


class StopRequests:
    """Whether anybody has asked a sweep to stop, of a process that holds its lease."""

    def __init__(self, folder: Store) -> None:
        self._requested, self._at_once = threading.Event(), False
        folder.delete(STOP_MARK)  # meant for an earlier driver
        self._watch = StopWatch(folder.uri, self._mark_seen)

    def __call__(self) -> bool:
        return self._requested.is_set() or self._watch()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While open, there is nothing to save yet: a request raises StopRequestedError wherever the body is, and one
        that came before at the beginning or at the end."""
        self._raise_if_asked()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self() or self._watch.look():
            raise StopRequestedError

    def on_signal(self, number: int, _: Any) -> None:
        """Takes a signal. A second Ctrl-C ends at once, whatever is lost."""
        if self._at_once:
            self._at_once = False
            self._requested.set()
            raise StopRequestedError
        if self._requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested.set()

    def _mark_seen(self) -> None:
        main = threading.main_thread().ident
        if self._at_once and main is not None and signal.getsignal(signal.SIGTERM) == self.on_signal:
            signal.pthread_kill(main, signal.SIGTERM)  # it may wait for a cluster

    def close(self) -> None:
        """Looks for no more."""
        self._watch.close()


@contextlib.contextmanager
def stop_requests(folder: Store) -> Iterator[StopRequests]:
    """Yields whether Ctrl-C, SIGTERM or `sweep stop` has asked for an end. A second Ctrl-C ends at once. Open it while
    holding the sweep's lease."""
    requests = StopRequests(folder)
    with stop_signals(requests.on_signal):
        try:
            yield requests
        finally:
            requests.close()


@contextlib.contextmanager
def stop_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While open, `handler` takes Ctrl-C and SIGTERM, which schedulers send. Only a main thread gets signals."""
    on_main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)} if on_main else {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
