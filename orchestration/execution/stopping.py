"""Requests to stop a sweep: Ctrl-C, SIGTERM, and the mark that `sweep stop` leaves beside the checkpoints.

The mark reaches trials that the driver can't talk to. A driver removes it once, right after it has taken the lease:
what is there then was meant for an earlier driver. `sweep stop` writes it again for as long as it is missing, so that
no request is lost, whatever the driver is doing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ...datasets.storage.store import Store
from ..search.protocol import STOP_MARK, StopRequested

STOP_POLL_S = 2.0


class StopWatch:
    """Looks every two seconds whether a sweep's folder holds the mark. Nobody waits for the answer, not even while
    the storage is away."""

    def __init__(self, folder: str) -> None:
        self._store, self._seen, self._closed = Store(folder), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="stop-watch", daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        return self._seen.is_set()

    def close(self) -> None:
        """Looks no more."""
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(STOP_POLL_S):
            try:
                if self._store.exists(STOP_MARK):
                    self._seen.set()
                    return
            except OSError:
                continue  # the storage is away for a while: training goes on


@contextlib.contextmanager
def stop_requests(folder: Store) -> Iterator[StopRequested]:
    """Yields whether Ctrl-C, SIGTERM or `sweep stop` has asked for an end. A second Ctrl-C ends at once. Open it while
    holding the sweep's lease."""
    requested = threading.Event()
    folder.delete(STOP_MARK)  # meant for an earlier driver
    watch = StopWatch(folder.uri)

    def on_signal(number: int, _: Any) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    on_main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if on_main else {}
    try:
        yield lambda: requested.is_set() or watch()
    finally:
        watch.close()
        for number, handler in before.items():
            signal.signal(number, handler)
