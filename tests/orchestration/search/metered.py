"""A driver whose clock only the test moves, and trials that do as they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refsweep.orchestration.ledger.accounts import ACCOUNTS
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.status import budget_status
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, Report, Room, Verdict
from refsweep.orchestration.spec.read import make_spec
from refsweep.tests.help import driver_of
from refsweep.trainables.training.checkpoints import Name, packed

EPOCHS = 3


class Sweep:
    """A driver, its clock, and trials that do as they are told."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 2,
        trials: int = 4,
        gpus: float = 0.0,
        pruner: str = "none",
        max_retries: int = 3,
        **budget: float,
    ) -> None:
        self.now_s = 1_000_000.0
        content = {
            "name": "b",
            "trainable": "toy",
            "data": "none",
            "storage": str(folder),
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": trials, "sampler": "random", "pruner": pruner, "eta": 2},
            "resources": {"cpus_per_worker": 2},
            "fixed": {"epochs": EPOCHS},
            "budget": budget,
            "retry": {"max_retries": max_retries, "halt_after_same_error": 1000},
        }
        self.spec, self.slots, self.gpus = make_spec(content), slots, gpus
        self.driver = self.new_driver()

    def new_driver(self) -> Driver:
        """As `run` makes one: of whatever the ledger holds."""
        spec = self.spec
        ledger = Ledger.create(spec.ledger_url, "b", ["min"], spec.as_json())
        ledger.take_lease()
        return driver_of(spec, ledger, Room(self.slots, self.gpus), clock=lambda: self.now_s)

    def killed_and_resumed(self, after_s: float) -> None:
        """The driver writes nothing more; its lease is free."""
        self.driver.ledger.close()
        self.now_s += after_s
        self.driver = self.new_driver()

    def start(self) -> Assignment:
        """The next trial to run."""
        found = self.driver.next_action()
        assert isinstance(found, Assignment)
        return found

    def epoch(
        self, a: Assignment, epoch: int, seconds: float, *, final: bool = False, loss: float = 1.0, **fields: Any
    ) -> Verdict:
        """Trains it, writes its checkpoint and reports it; the clock does not move."""
        found = self.driver.checkpoints(a.number)
        newest = found.newest()
        history = newest.history if newest is not None else []
        metrics = {"loss": loss / epoch}
        entry = {
            "epoch": epoch,
            "time_ms": int(self.now_s * 1000),
            "seconds": seconds,
            "metrics": metrics,
            "setting": {},
        }
        found.write(Name(a.attempt, epoch), packed({}, {}), {"history": [*history, entry], "final": final}, set())
        return self.driver.on_result(Report(number=a.number, attempt=a.attempt, entries=[entry], final=final, **fields))

    def stop(self, a: Assignment, epoch: int, batch: int, **fields: Any) -> None:
        """Writes a checkpoint within an epoch and reports that it stops."""
        found = self.driver.checkpoints(a.number)
        newest = found.newest()
        history = newest.history if newest is not None else []
        found.write(Name(a.attempt, epoch - 1, batch), packed({}, {}), {"history": history, "final": False}, set())
        self.driver.on_result(Report(number=a.number, attempt=a.attempt, stopped=True, **fields))

    def seconds(self, *, running: bool = True) -> dict[str, float]:
        """What `budget_status` has in hours, in seconds."""
        found = budget_status(self.driver.ledger, self.now_s if running else None)
        return {k.removesuffix("_hours"): round(v * 3600, 6) for k, v in found.items() if k.endswith("_hours")}

    def accounts(self, *, running: bool = True) -> dict[str, float]:
        """Those that are not empty."""
        found = self.seconds(running=running)
        return {name: found[name] for name in ACCOUNTS if found[name]}
