"""The driver on real Ray: as many toy actors at the same time as this machine's memory holds.

    python -m refsweep.benchmarks actors                 4, 8, 16 and 24 slots, as long as memory lasts
    python -m refsweep.benchmarks.actors --slots 8       one case, as JSON

Trials sleep, so that more of them than cores run at once. What is measured is what `scale` simulates.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..orchestration.search.driver import Driver
from ..orchestration.search.protocol import Assignment, Report, Verdict
from ..orchestration.spec.read import make_spec
from ..orchestration.spec.schema import SweepSpec
from .common import publish

SLOTS = (4, 8, 16, 24)
TRIALS_A_SLOT, EPOCHS, EPOCH_S = 4, 4, 5.0
LEFT_MIB = 6 * 1024  # for the rest of the machine
ACTOR_MIB = 550  # of a toy actor, to stop before memory ends


def main() -> None:
    """Each case in a process of its own, with a Ray of its own."""
    rows = []
    for slots in SLOTS:
        if _available_mib() - LEFT_MIB < slots * ACTOR_MIB:
            break
        command = [sys.executable, "-m", __name__, "--slots", str(slots)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    publish("actors", f"toy trials of {EPOCHS} epochs of {EPOCH_S:g} s on real Ray, {TRIALS_A_SLOT} a slot", rows)


def _available_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def _actors_mib() -> list[float]:
    """Memory of this Ray's actors; of what processes share each counts its part."""
    actors_mib = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            name = (process / "cmdline").read_bytes()
            if name.startswith(b"ray::") and b"Agent" not in name and _is_ours(int(process.name)):
                rollup = (process / "smaps_rollup").read_text()
                shares = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
                actors_mib.append(sum(shares) / 1024)
    return actors_mib


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


class Watch:
    """Times a driver's work, and when each slot is held."""

    def __init__(self) -> None:
        self.report_s: list[float] = []
        self.ask_s: list[float] = []
        self.cpu_s = 0.0
        self.trained_s = 0.0
        self.held: dict[int, list[float]] = {}  # trial -> from when to when
        self.memory_mib: list[float] = []

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """The body's drivers are watched."""
        ask, report_to, over = Driver.next_action, Driver.on_result, threading.Event()

        def next_(driver: Driver) -> Any:
            began, used = time.perf_counter(), time.thread_time()
            action = ask(driver)
            if isinstance(action, Assignment):
                self._add(self.ask_s, began, used)
                self.held[action.number] = [time.perf_counter(), 0.0]
            return action

        def on_result(driver: Driver, report: Report) -> Verdict:
            began, used = time.perf_counter(), time.thread_time()
            verdict = report_to(driver, report)
            self._add(self.report_s, began, used)
            self.trained_s += sum(float(e["seconds"]) for e in report.entries[-1:])
            if verdict is Verdict.END:
                self.held[report.number][1] = time.perf_counter()
            return verdict

        def look() -> None:
            while not over.wait(2.0):
                actors_mib = _actors_mib()
                if sum(actors_mib) > sum(self.memory_mib):
                    self.memory_mib = actors_mib

        watching = threading.Thread(target=look)
        watching.start()
        Driver.next_action, Driver.on_result = next_, on_result  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Driver.next_action, Driver.on_result = ask, report_to  # type: ignore[method-assign]
            over.set()
            watching.join()

    def _add(self, into: list[float], began: float, used: float) -> None:
        into.append(time.perf_counter() - began)
        self.cpu_s += time.thread_time() - used

    def busy(self, slots: int) -> float:
        """Share of slots held by a trial, from the first trial's first report until none is left to be asked for."""
        first, last = min(end for _, end in self.held.values()), max(start for start, _ in self.held.values())
        held = sum(max(0.0, min(end, last) - max(start, first)) for start, end in self.held.values())
        return held / (slots * (last - first))


def spec_of(storage: str, slots: int) -> SweepSpec:
    """The sweep that is run."""
    return make_spec(
        {
            "name": "actors",
            "trainable": "toy",
            "data": "none",
            "storage": storage,
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": TRIALS_A_SLOT * slots, "sampler": "tpe", "pruner": "none"},
            "fixed": {"epochs": EPOCHS, "seconds_per_epoch": EPOCH_S},
            "stream": "threads",
            "resources": {"gpus_per_worker": 0, "cpus_per_worker": 1},
        }
    )


def case(slots: int) -> dict[str, Any]:
    """One sweep on a Ray that is told of as many CPUs as there are slots."""
    import ray

    from ..orchestration.execution.tune import TuneBackend
    from ..orchestration.sweep import open_sweep

    ray.init(
        address="local",
        num_cpus=slots,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
    )
    watch, began = Watch(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, watch.driving(), open_sweep(spec_of(folder, slots)) as sweep:
        sweep.run(TuneBackend(lambda: None, lambda _: None))
        states = [t.state.name for t in sweep.ledger.trials]
    ray.shutdown()
    assert states == ["COMPLETE"] * TRIALS_A_SLOT * slots
    reports, asks = np.array(watch.report_s) * 1000, np.array(watch.ask_s) * 1000
    return {
        "actors": slots,
        "seen at once": len(watch.memory_mib),
        "MiB an actor": float(np.mean(watch.memory_mib)),
        "trials": len(states),
        "results": len(reports),
        "driver ms a result": float(reports.sum() + asks.sum()) / len(reports),
        "of it CPU": watch.cpu_s * 1000 / len(reports),
        "report ms": float(reports.mean()),
        "p95": float(np.percentile(reports, 95)),
        "ask ms": float(asks.mean()),
        "slots busy": watch.busy(slots),
        "wall s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, required=True)
    sys.stdout.write(json.dumps(case(parser.parse_args().slots)) + "\n")
