"""Projects a sweep into MLflow in a thread, while it runs. What a lost server misses, `sweep sync` uploads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Protocol

from ..ledger.ledger import Ledger
from .projector import Projector

log = logging.getLogger(__name__)


class Running(Protocol):
    """What a tracker needs of a driver."""

    @property
    def ledger(self) -> Ledger:
        """The sweep's record."""

    @property
    def live(self) -> Mapping[int, int]:
        """Numbers of the trials that are being run, and their attempts."""


class Tracker:
    """Projects a sweep in a thread, while it runs."""

    def __init__(self, projector: Projector, retry_s: float = 10.0, pause_s: float = 2.0) -> None:
        """Waits `retry_s` after MLflow was away, and `pause_s` for more changes: one request tells of them all."""
        self.projector, self.retry_s, self.pause_s = projector, retry_s, pause_s
        self._over = threading.Event()
        self.problem: str | None = None  # why MLflow is behind
        self._changed: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def attached(self, driver: Running) -> None:
        """Follows a driver from now on: all trials of its sweep, as they are and as they change."""
        self.projector.live = lambda number: number in driver.live
        for trial in driver.ledger.trials:
            self.trial_changed(trial.number)

    def trial_changed(self, number: int) -> None:
        """A trial's record has changed."""
        self._changed.put(number)

    def ticked(self) -> None:
        """Nothing to do: the thread has a pace of its own."""

    def finish(self, state: str, patience_s: float = 60.0) -> bool:
        """Sends the rest and the sweep's state; whether MLflow is up to date."""
        self._over.set()
        self._changed.put(None)
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self.problem = self.problem or f"still sending after {patience_s:g} s"
        if self.problem:
            return False
        try:
            self.projector.reconcile()
            self.projector.sweep(state)
        except Exception as error:  # noqa: BLE001  tracking never fails a sweep
            self.problem = _say(error)
            return False
        return True

    def _work(self) -> None:
        waiting: set[int] = set()
        started = ended = False
        while not ended:
            ended = self._collect(waiting, self.retry_s if self.problem else None)
            if not ended and not self.problem:
                self._over.wait(self.pause_s)
                ended = self._collect(waiting, 0)
            try:
                if not started:
                    self.projector.sweep("running")
                    started = True
                for number in sorted(waiting):
                    self.projector.trial(number)
                    waiting.discard(number)
                self.problem = None
            except Exception as error:  # noqa: BLE001  tracking never fails a sweep
                if self.problem is None:
                    log.warning("MLflow is behind: %s", _say(error))
                self.problem = _say(error)

    def _collect(self, waiting: set[int], timeout_s: float | None) -> bool:
        """Waits for changes and takes all there are; whether the end was announced."""
        try:
            found = self._changed.get(timeout=timeout_s)
            while True:
                if found is None:
                    return True
                waiting.add(found)
                found = self._changed.get_nowait()
        except queue.Empty:
            return False


def _say(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
