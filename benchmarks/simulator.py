"""A cluster that is not there: slots whose trials are synthetic, driven by the real driver, in simulated time.

Discrete events: an epoch's end, a slot that is free. The driver is one thread, so it serves them one after the
other, and simulated time moves on by the real time that each takes it: while it is busy, slots wait, as they would.
The MLflow writer has a clock of its own, as its thread would; it gathers changes for two seconds and sends them.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..orchestration.ledger.ledger import Ledger
from ..orchestration.search.driver import Driver, Verdict
from ..orchestration.search.protocol import Assignment, Report
from ..orchestration.spec.schema import SweepSpec
from ..orchestration.tracking.projector import Projector
from ..search_spaces import ikun
from ..trainables.training.checkpoints import FORMAT, MANIFEST

START_S, EPOCH_S = 5.0, (60.0, 300.0)  # of a reused actor; an epoch's length, which differs from trial to trial
TICK_S = 0.5  # how often the executor looks after budgets
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


class Writer:
    """The MLflow writer, beside the driver: real requests, in a time of its own."""

    def __init__(self, projector: Projector) -> None:
        self.projector = projector
        self.lags_s: list[float] = []
        self.seconds = 0.0
        self._waiting: dict[int, float] = {}  # trial -> since when MLflow is behind
        self._free_s = 0.0

    def touch(self, number: int, now_s: float) -> None:
        """A trial's record has changed."""
        self._waiting.setdefault(number, now_s)

    def work(self, now_s: float) -> None:
        """Sends what had gathered by now, if the writer is free."""
        if not self._waiting or now_s < self._free_s + PAUSE_S:
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


class Simulation:
    """One sweep on simulated slots. `run` takes it to its end."""

    def __init__(self, spec: SweepSpec, ledger: Ledger, slots: int, *, mlflow: bool) -> None:
        self.spec, self.slots = spec, slots
        self.now_s = 0.0
        self.began_s = time.time()
        self.driver = Driver(
            spec,
            ledger,
            ikun.space,
            posthoc=ikun.POSTHOC,
            data=None,
            fingerprint="none",
            slots=slots,
            gpus=1.0,
            changed=self._changed,
            clock=lambda: self.began_s + self.now_s,
        )
        self.writer: Writer | None = None
        if mlflow and spec.tracking_uri is not None:
            projector = Projector(spec.tracking_uri, ledger, self.driver.checkpoints)
            projector.live = lambda number: number in self.driver.live
            projector.sweep("running")
            self.writer = Writer(projector)
        self.curves = Curves(spec.search.seed)
        self.report_s: list[float] = []
        self.ask_s: list[float] = []
        self.tick_s = self.cpu_s = self.queued_s = 0.0
        self.finished: list[int] = []
        self.busy_s = 0.0  # slot-seconds in which a trial trained or started, while trials remained to be asked for
        self.asked_all_s: float | None = None
        self._ends: list[tuple[float, int]] = []  # of epochs: when, which trial
        self._history: dict[int, list[dict[str, Any]]] = {}
        self._assigned: dict[int, tuple[Assignment, float, list[float]]] = {}
        self.spans: list[tuple[float, float]] = []

    def run(self) -> None:
        """To the sweep's end."""
        free = deque(range(self.slots))
        ticked_s = 0.0
        while True:
            while free:
                if not self._start():
                    break
                free.popleft()
                self._write()
            if not self._ends:
                break
            ready_s, number = heapq.heappop(self._ends)
            self.now_s = max(self.now_s, ready_s)
            if self.now_s - ticked_s >= TICK_S:
                ticked_s = self.now_s
                self._tick()
            if self._report(number) is Verdict.END:
                free.append(0)
            self._write()
        self.driver.budget.end()
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

    def _start(self) -> bool:
        with self._timed(self.ask_s):
            found = self.driver.next()
        if not isinstance(found, Assignment):
            self.ask_s.pop()
            self.asked_all_s = self.asked_all_s or self.now_s
            return False
        length_s, values = self.curves.of(found.number, self.spec.epochs)
        self._assigned[found.number] = (found, length_s, values)
        self._history[found.number] = []
        self._train(found.number, START_S + length_s)
        return True

    def _train(self, number: int, seconds: float) -> None:
        self.spans.append((self.now_s, self.now_s + seconds))
        heapq.heappush(self._ends, (self.now_s + seconds, number))

    def _report(self, number: int) -> Verdict:
        assigned, length_s, values = self._assigned[number]
        history = self._history[number]
        epoch = len(history) + 1
        at_ms = int((self.began_s + self.now_s) * 1000)
        metrics = {"hota": values[epoch - 1], "train_loss": 1 / epoch}
        history.append({"epoch": epoch, "time_ms": at_ms, "seconds": length_s, "metrics": metrics, "setting": {}})
        final = epoch == self.spec.epochs
        self._save(assigned, history, final)
        report = Report(number=number, attempt=assigned.attempt, entries=history[-1:], final=final)
        with self._timed(self.report_s):
            verdict = self.driver.on_report(report)
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

    def _tick(self) -> None:
        spent: list[float] = []
        with self._timed(spent):
            self.driver.budget.heartbeat()
            self.driver.must_stop()
        self.tick_s += spent[0]

    def _changed(self, number: int) -> None:
        if self.writer is not None:
            self.writer.touch(number, self.now_s)

    def _write(self) -> None:
        if self.writer is not None:
            self.writer.work(self.now_s)
