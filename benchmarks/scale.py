"""How the driver's cost grows: 512 simulated GPUs, 100 to 10,000 trials, on SQLite and PostgreSQL.

    python -m refsweep.benchmarks scale             up to 1,000 trials, minutes
    python -m refsweep.benchmarks.scale --trials 10000 --slots 512 [--postgresql] [--no-mlflow]   one case, as JSON

All that decides and remembers is real: ledger, sampler (tpe, the space of ikun), pruner (asha), budget and MLflow
writer; see `simulator` for what is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..orchestration.ledger.ledger import Ledger
from ..orchestration.search.driver import Driver
from ..orchestration.spec.folders import trial_folder
from ..orchestration.spec.read import make_spec
from ..orchestration.spec.schema import SweepSpec
from ..orchestration.tracking.projector import Projector
from ..search_spaces import ikun
from ..trainables.training.checkpoints import Checkpoints
from .common import publish
from .simulator import Curves, SimulatedBackend, SimulatedTracker

SLOTS, TRIALS, EPOCHS = 512, (100, 1000), 27


def main() -> None:
    """Each case in a process of its own, so that memory can be told apart."""
    rows = []
    for trials in TRIALS:
        for ledger in ("sqlite", "postgresql"):
            command = [sys.executable, "-m", __name__, "--trials", str(trials)]
            done = subprocess.run(
                [*command, *(["--postgresql"] if ledger == "postgresql" else [])],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            rows.append(json.loads(done.stdout))
    title = f"a simulated sweep on {SLOTS} slots; targets at 1,000 trials: driver <= 20 ms a result, slots >= 95 % busy"
    publish("scale", title, rows)


def spec_of(storage: str, trials: int, ledger: str | None = None, **search: Any) -> SweepSpec:
    """The sweep that is simulated."""
    return make_spec(
        {
            "name": "scale",
            "trainable": "ikun",
            "data": "made:refer-kitti",
            "storage": storage,
            "ledger": ledger,
            "objective": {"metric": "hota", "mode": "max"},
            "search": {"trials": trials, "sampler": "tpe", "pruner": "asha", "eta": 3, **search},
            "fixed": {"epochs": EPOCHS},
            "budget": {"gpu_hours": 1e6},  # far: what counts is that it is counted
        }
    )


@dataclass(frozen=True, slots=True)
class Simulated:
    """A sweep that was simulated. Its ledger is open."""

    driver: Driver
    backend: SimulatedBackend
    tracker: SimulatedTracker | None


def simulate(spec: SweepSpec, slots: int, *, mlflow: bool) -> Simulated:
    """Runs a sweep in simulated time."""
    ledger = Ledger.create(spec.ledger_url, spec.name, [o.mode for o in spec.objectives], spec.as_json())
    ledger.take_lease()
    backend = SimulatedBackend(slots, Curves(spec.search.seed))
    tracker = None
    if mlflow and spec.tracking_uri is not None:
        projector = Projector(spec.tracking_uri, ledger, lambda number: Checkpoints(trial_folder(spec, number)))
        tracker = SimulatedTracker(projector, backend)
    driver = Driver(
        spec,
        ledger,
        space=ikun.space,
        epochs=EPOCHS,
        room=backend.room(spec, lambda: False),
        posthoc=ikun.POSTHOC,
        observers=[tracker] if tracker else [],
        clock=backend.clock,
    )
    backend.run(driver)
    return Simulated(driver, backend, tracker)


def figures(simulated: Simulated, memory_mib: float, wall_s: float) -> dict[str, Any]:
    """What a simulation measured. Times in ms are the driver's, real."""
    sim, writer = simulated.backend, simulated.tracker
    reports, asks = np.array(sim.report_s) * 1000, np.array(sim.ask_s) * 1000
    until = sim.asked_all_s if sim.asked_all_s is not None else sim.now_s
    lags = np.array(writer.lags_s) if writer is not None and writer.lags_s else np.zeros(1)
    return {
        "trials": len(sim.finished),
        "ledger": simulated.driver.ledger.url.partition(":")[0],
        "results": len(reports),
        "driver ms a result": float(reports.sum() + asks.sum() + sim.tick_s * 1000) / len(reports),
        "of it CPU": sim.cpu_s * 1000 / len(reports),
        "of it waiting for a core": sim.queued_s * 1000 / len(reports),
        "report ms": float(reports.mean()),
        "p95": float(np.percentile(reports, 95)),
        "ask ms": float(asks.mean()),
        "p95 of asks": float(np.percentile(asks, 95)),
        "last asks": float(asks[-50:].mean()),
        # with fewer trials than slots there is no time in which trials remain
        "slots busy": sim.busy_s / (sim.slots * until) if len(sim.finished) > sim.slots else None,
        "driver busy": float(reports.sum() + asks.sum()) / 1000 / sim.now_s,
        "MLflow lag s, p95": float(np.percentile(lags, 95)),
        "writer busy": writer.seconds / sim.now_s if writer is not None else 0.0,
        "MiB": memory_mib,
        "simulated h": sim.now_s / 3600,
        "wall s": wall_s,
    }


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def place() -> Iterator[str]:
    """A folder in memory where there is one: thousands of small files are written."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield folder


def case(arguments: argparse.Namespace) -> dict[str, Any]:
    """One case. SQLite's file is on disk, as users have it."""
    from .servers import postgres

    with place() as folder, tempfile.TemporaryDirectory() as disk, contextlib.ExitStack() as stack:
        url = f"{stack.enter_context(postgres())}" if arguments.postgresql else f"sqlite:///{disk}/ledger.db"
        content = {**spec_of(folder, arguments.trials, url).as_json(), "tracking": f"sqlite:///{disk}/mlflow.db"}
        if not arguments.no_mlflow:
            import mlflow  # noqa: F401  its memory is not the sweep's
        before, began = resident_mib(), time.perf_counter()
        simulated = simulate(make_spec(content), arguments.slots, mlflow=not arguments.no_mlflow)
        measured = figures(simulated, resident_mib() - before, time.perf_counter() - began)
        simulated.driver.ledger.close()
    return measured


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--no-mlflow", action="store_true")
    sys.stdout.write(json.dumps(case(parser.parse_args())) + "\n")
