"""A cluster that is not there: slots whose trials are synthetic, driven by the real driver, in simulated time.

Discrete events: an epoch's end, a slot that is free. The driver is one thread, so it serves them one after the
other, and simulated time moves on by the real time that each takes it: while it is busy, slots wait, as they would.
The MLflow writer has a clock of its own, as its thread would; it gathers changes for two seconds and sends them.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..orchestration.search.driver import Driver
from ..orchestration.search.protocol import Assignment, Report, Room, StopRequested, Verdict
from ..orchestration.spec.schema import SweepSpec
from ..orchestration.tracking.projector import Projector
from ..trainables.training.checkpoints import FORMAT, MANIFEST

START_S, EPOCH_S = 5.0, (60.0, 300.0)  # of a reused actor; an epoch's length, which differs from trial to trial
TICK_S = 0.5  # how often a backend looks after budgets
PAUSE_S = 2.0  # how long the MLflow writer gathers changes


def queued_s() -> float:
    """How long this thread has waited for a core that others had, where Linux says so."""
    told = Path("/proc/thread-self/schedstat")
    return int(told.read_text().split()[1]) / 1e9 if told.exists() else 0.0


class Curves:
    """Synthetic HOTA by epoch, from (seed, number) alone: a saturating rise with noise."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def of(self, number: int, epochs: int) -> tuple[float, list[float]]:
        """(seconds of an epoch, value after each)."""
        rng = np.random.default_rng((self.seed, number))
        top, pace, length_s = rng.beta(2, 4), rng.uniform(2, 8), rng.uniform(*EPOCH_S)
        epoch = np.arange(1, epochs + 1)
        values = top * (1 - np.exp(-epoch / pace)) + rng.normal(0, 0.01, epochs)
        return float(length_s), [float(v) for v in values]


class SimulatedTracker:
    """The MLflow writer, beside the driver: real requests, in a time of its own."""

    def __init__(self, projector: Projector, backend: SimulatedBackend) -> None:
        self.projector, self._backend = projector, backend
        self.lags_s: list[float] = []
        self.seconds = 0.0
        self._waiting: dict[int, float] = {}  # trial -> since when MLflow is behind
        self._free_s = 0.0

    def attached(self, driver: Driver) -> None:
        """Follows the driver."""
        self.projector.live = lambda number: number in driver.live
        self.projector.sweep("running")

    def trial_changed(self, number: int) -> None:
        """MLflow is behind from now on."""
        self._waiting.setdefault(number, self._backend.now_s)

    def ticked(self) -> None:
        """Sends what had gathered by now, if the writer is free."""
        if not self._waiting or self._backend.now_s < self._free_s + PAUSE_S:
            return
        self._free_s = max(self._free_s, min(self._waiting.values())) + PAUSE_S
        for number, since_s in sorted(self._waiting.items()):
            began = time.perf_counter()
            self.projector.trial(number)
            took_s = time.perf_counter() - began
            self.seconds += took_s
            self._free_s += took_s
            self.lags_s.append(self._free_s - since_s)
        self._waiting.clear()


class SimulatedBackend:
    """Slots that are not there. `clock` is what the driver must be given as its own."""

    def __init__(self, slots: int, curves: Curves) -> None:
        self.slots, self.curves = slots, curves
        self.now_s = 0.0
        self.began_s = time.time()
        self.report_s: list[float] = []
        self.ask_s: list[float] = []
        self.tick_s = self.cpu_s = self.queued_s = 0.0
        self.finished: list[int] = []
        self.busy_s = 0.0  # slot-seconds in which a trial trained or started, while trials remained to be asked for
        self.asked_all_s: float | None = None
        self.spans: list[tuple[float, float]] = []
        self._ends: list[tuple[float, int]] = []  # of epochs: when, which trial
        self._history: dict[int, list[dict[str, Any]]] = {}
        self._assigned: dict[int, tuple[Assignment, float, list[float]]] = {}

    def clock(self) -> float:
        """Simulated seconds since 1970."""
        return self.began_s + self.now_s

    def room(self, spec: SweepSpec, stop_requested: StopRequested) -> Room:
        """A GPU a slot."""
        return Room(self.slots, gpus_per_worker=1.0)

    def run(self, driver: Driver, stop_requested: StopRequested = lambda: False) -> None:
        """To the sweep's end."""
        free = self.slots
        ticked_s = 0.0
        while True:
            while free and self._start(driver):
                free -= 1
            if not self._ends:
                break
            ready_s, number = heapq.heappop(self._ends)
            self.now_s = max(self.now_s, ready_s)
            if self.now_s - ticked_s >= TICK_S:
                ticked_s = self.now_s
                self._look_after_budget(driver)
            if self._report(driver, number) is Verdict.END:
                free += 1
            self._notify(driver)
        driver.budget.end()
        until = self.asked_all_s if self.asked_all_s is not None else self.now_s
        self.busy_s = sum(max(0.0, min(end, until) - start) for start, end in self.spans)

    @contextmanager
    def _timed(self, into: list[float]) -> Iterator[None]:
        """The driver works: simulated time moves on by the real time it takes."""
        began, used, queued = time.perf_counter(), time.thread_time(), queued_s()
        yield
        self.cpu_s += time.thread_time() - used
        self.queued_s += queued_s() - queued
        into.append(time.perf_counter() - began)
        self.now_s += into[-1]

    def _start(self, driver: Driver) -> bool:
        with self._timed(self.ask_s):
            action = driver.next_action()
        if not isinstance(action, Assignment):
            self.ask_s.pop()
            self.asked_all_s = self.asked_all_s or self.now_s
            return False
        length_s, values = self.curves.of(action.number, driver.epochs)
        self._assigned[action.number] = (action, length_s, values)
        self._history[action.number] = []
        self._train(action.number, START_S + length_s)
        self._notify(driver)
        return True

    def _train(self, number: int, seconds: float) -> None:
        self.spans.append((self.now_s, self.now_s + seconds))
        heapq.heappush(self._ends, (self.now_s + seconds, number))

    def _report(self, driver: Driver, number: int) -> Verdict:
        assigned, length_s, values = self._assigned[number]
        history = self._history[number]
        epoch = len(history) + 1
        at_ms = int(self.clock() * 1000)
        metrics = {"hota": values[epoch - 1], "train_loss": 1 / epoch}
        history.append({"epoch": epoch, "time_ms": at_ms, "seconds": length_s, "metrics": metrics, "setting": {}})
        final = epoch == driver.epochs
        self._save(assigned, history, final)
        report = Report(number=number, attempt=assigned.attempt, entries=history[-1:], final=final)
        with self._timed(self.report_s):
            verdict = driver.on_result(report)
        if verdict is Verdict.GO_ON:
            self._train(number, length_s)
        else:
            self.finished.append(number)
            del self._assigned[number], self._history[number]
        return verdict

    def _save(self, assigned: Assignment, history: list[dict[str, Any]], final: bool) -> None:
        """What a trial leaves in storage, without weights: nobody reads them here."""
        folder = Path(assigned.storage) / str(assigned.number) / f"epoch-{len(history):04d}.{assigned.attempt}"
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "history": history, "final": final}))

    def _look_after_budget(self, driver: Driver) -> None:
        spent: list[float] = []
        with self._timed(spent):
            driver.budget.heartbeat()
            driver.must_stop()
        self.tick_s += spent[0]

    @staticmethod
    def _notify(driver: Driver) -> None:
        for observer in driver.observers:
            observer.ticked()
