"""Keeps MLflow up to date in a thread while a sweep runs. What an unreachable server misses, `sweep sync` uploads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Protocol

from ..ledger.ledger import Ledger
from .projector import Projector, RefusedError

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
    """Uploads changes of a sweep as they come. It never fails a sweep: `problem` says why MLflow is behind."""

    def __init__(self, projector: Projector, retry_s: float = 10.0, pause_s: float = 2.0) -> None:
        """Tries again `retry_s` after MLflow was away. Waits `pause_s` for more changes, to upload them together."""
        self.projector, self.retry_s, self.pause_s = projector, retry_s, pause_s
        self.problem: str | None = None
        self._refused: set[int] = set()  # numbers of trials that MLflow does not take
        self._finishing, self._abandoned = threading.Event(), threading.Event()
        self._changed: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # numbers of trials; None: the end
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def attached(self, driver: Running) -> None:
        """Follows a driver from now on: all trials of its sweep, as they are and as they change."""
        self.projector.live = lambda number: number in driver.live
        for trial in driver.ledger.trials:
            self.trial_changed(trial.number)

    def trial_changed(self, number: int) -> None:
        """Notes that a trial's record has changed, and returns at once."""
        self._changed.put(number)

    def ticked(self) -> None:
        """Nothing to do: the thread has a pace of its own."""

    def finish(self, state: str, timeout_s: float = 60.0) -> bool:
        """Uploads the rest and the sweep's state. Returns whether MLflow is up to date."""
        self._finishing.set()
        self._changed.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.problem = self.problem or f"still uploading after {timeout_s:g} s"
        if self.problem:
            return False
        try:
            try:
                self.projector.reconcile()
            except RefusedError as error:
                self.problem = _summary(error)
            self.projector.sweep(state)
        except Exception as error:  # noqa: BLE001  tracking never fails a sweep
            self.problem = _summary(error)
        return self.problem is None

    def abandon(self) -> None:
        """Uploads nothing more: the sweep is another driver's by now."""
        self._abandoned.set()
        self._finishing.set()
        self._changed.put(None)

    def _work(self) -> None:
        waiting: set[int] = set()
        started = ended = False
        while not ended:
            ended = self._collect(waiting, self.retry_s if self.problem else None)
            if not ended and not self.problem:
                self._finishing.wait(self.pause_s)
                ended = self._collect(waiting, 0)
            if self._abandoned.is_set():
                return
            try:
                if not started:
                    self.projector.sweep("running")
                    started = True
                for number in sorted(waiting):
                    if self._abandoned.is_set():
                        return
                    self._upload(number)
                    waiting.discard(number)
                self.problem = None
            except Exception as error:  # noqa: BLE001  tracking never fails a sweep
                if self.problem is None:
                    log.warning("MLflow is behind: %s", _summary(error))
                self.problem = _summary(error)

    def _upload(self, number: int) -> None:
        """A trial that MLflow refuses is named once, and keeps no other from arriving; it is sent again at the end."""
        try:
            self.projector.trial(number)
        except RefusedError as error:
            if number not in self._refused:
                log.warning("%s", error)
            self._refused.add(number)

    def _collect(self, waiting: set[int], timeout_s: float | None) -> bool:
        """Waits for a change and takes all that have come. Returns whether the end was announced."""
        try:
            number = self._changed.get(timeout=timeout_s)
            while True:
                if number is None:
                    return True
                waiting.add(number)
                number = self._changed.get_nowait()
        except queue.Empty:
            return False


def _summary(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, RefusedError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
