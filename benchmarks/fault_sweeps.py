"""A small sweep on a cluster of real servers, watched closely enough to break something at a given moment."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import yaml

from ..cluster.local import LocalCluster
from ..orchestration.execution.inline import InlineBackend
from ..orchestration.jobs.client import Jobs
from ..orchestration.ledger.ledger import Ledger
from ..orchestration.search.driver import Driver
from ..orchestration.search.protocol import Room
from ..orchestration.spec.check import epochs_of
from ..orchestration.spec.read import make_spec, settle
from ..search_spaces import toy

TIMEOUT_S = 240.0  # for anything that should happen
POLL_S = 0.2
COMMAND = [sys.executable, "-c", "from refsweep.orchestration.cli.main import main; main()"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a sweep is like. With one slot the sampler and the pruner look back; with several they don't, so that the
    sweep is the same in any order of events."""

    trials: int = 4
    epochs: int = 3
    seconds_per_epoch: float = 2.0
    slots: int = 2
    workers: int = 1
    hang_s: float = 300.0


class FaultySweep:
    """A toy sweep whose storage, ledger and tracking are the cluster's servers."""

    def __init__(self, cluster: LocalCluster, folder: Path, shape: Shape) -> None:
        self.cluster, self.shape = cluster, shape
        self.name = f"f{secrets.token_hex(4)}"
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        looks_back = shape.slots == 1 and shape.workers == 1
        self.content: dict[str, Any] = {
            "name": self.name,
            "trainable": "toy",
            "data": "none",
            "storage": cluster.storage,
            "ledger": cluster.ledger,
            "tracking": cluster.tracking,
            "objective": {"metric": "loss", "mode": "min"},
            "search": {
                "trials": shape.trials,
                "sampler": "tpe" if looks_back else "random",
                "pruner": "asha" if looks_back else "none",
                **({"startup": 2, "eta": 2} if looks_back else {}),
                "seed": 3,
            },
            "resources": {"max_concurrent": shape.slots, "workers": shape.workers, "wait_s": 120.0},
            "retry": {"hang_s": shape.hang_s},
            "fixed": {
                "epochs": shape.epochs,
                "noise": 2.0,
                "seconds_per_epoch": shape.seconds_per_epoch,
                "batch": 2 * shape.workers,
            },
        }
        self._ledger: Ledger | None = None
        self._threads = ThreadPoolExecutor(1)
        self._driver: Future[CompletedProcess[str]] | None = None
        self.faults_s: list[float] = []  # when something was broken, in seconds since 1970

    # -- to run it ---------------------------------------------------------------------------------------

    def submit(self) -> None:
        """As a job of the cluster, as users do."""
        Jobs(self.cluster.dashboard).submit(make_spec(self.content))

    def submit_again(self) -> None:
        """After its job was lost; to its end. Raises RuntimeError when that is no success."""
        jobs = Jobs(self.cluster.dashboard)
        self.wait(lambda: all(job.is_over for job in jobs.of(self.name)))
        self.submit()
        self.wait_for_job()

    def wait_for_job(self) -> None:
        """Until its newest job has ended. Raises RuntimeError when that is no success."""
        jobs = Jobs(self.cluster.dashboard)
        self.wait(lambda: jobs.of(self.name)[-1].is_over)
        job = jobs.of(self.name)[-1]
        if job.state != "succeeded":
            raise RuntimeError("\n".join([f"{job.id} {job.state}: {job.message}", *jobs.log(job.id)[-40:]]))

    def drive(self, host: int = 0) -> None:
        """By a process on a host: starts sooner than a job."""
        spec = self.folder / "spec.yaml"
        spec.write_text(yaml.safe_dump(self.content))
        command = [*COMMAND, "sweep", "run", str(spec), "--plain"]
        self._driver = self._threads.submit(self.cluster.run, host, command, timeout=2 * TIMEOUT_S)

    def outcome(self, timeout_s: float = TIMEOUT_S) -> CompletedProcess[str]:
        """What became of the process that drives, once it has ended."""
        assert self._driver is not None
        done = self._driver.result(timeout_s)
        self._driver = None
        return done

    def wait_for_driver(self) -> None:
        """Until the driver's process has ended. Raises RuntimeError when that is no success."""
        done = self.outcome()
        if done.returncode:
            raise RuntimeError(f"the driver ended with {done.returncode}\n{done.stdout}\n{done.stderr}")

    # -- to watch it -------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """Its record as it stands."""
        if self._ledger is None:
            self._ledger = Ledger.open(self.cluster.ledger, self.name)
        self._ledger.refresh()
        return self._ledger

    def close(self) -> None:
        """Lets go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
        self._threads.shutdown(wait=False)

    def epochs(self) -> int:
        """Finished epochs of all trials."""
        with contextlib.suppress(Exception):  # it may not have begun
            return sum(len(t.intermediate_values) for t in self.ledger.trials)
        return 0

    def wait(self, true: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Until something is so. Raises RuntimeError when it does not come, or the driver has ended before."""
        until = time.monotonic() + timeout_s
        while not true():
            if self._driver is not None and self._driver.done() and not true():
                self.wait_for_driver()
                raise RuntimeError(f"sweep {self.name} was over before what was waited for")
            if time.monotonic() > until:
                raise RuntimeError(f"sweep {self.name}: waited {timeout_s:g} s in vain")
            time.sleep(POLL_S)

    def wait_for_epochs(self, count: int) -> None:
        """Until so many epochs have been reported."""
        self.wait(lambda: self.epochs() >= count)

    def now(self) -> None:
        """Something is being broken. Raises RuntimeError when there is nothing left to break."""
        trials = self.ledger.trials
        if len(trials) == self.shape.trials and all(t.state.is_finished() for t in trials):
            raise RuntimeError(f"sweep {self.name} was over before its fault")
        self.faults_s.append(time.time())

    def processes(self, *titles: str) -> Iterator[tuple[int, int]]:
        """(host, process id) of Ray's processes of which a title begins so, by host."""
        for host in range(self.cluster.hosts):
            for pid in self.cluster.pids(host) if self.cluster.alive(host) else ():
                if title_of(pid).startswith(titles):
                    yield host, pid

    def running(self) -> int:
        """How many trials are RUNNING at this moment."""
        self.ledger.refresh()
        return len(self.ledger.running())

    # -- what it should come to --------------------------------------------------------------------------

    def facts(self) -> list[Any]:
        """All that was decided and measured."""
        return facts(self.ledger)

    def undisturbed(self) -> list[Any]:
        """The same of a sweep in one process that nothing happens to."""
        fixed = {**self.content["fixed"], "seconds_per_epoch": 0.0, "batch": 2}
        places = {"storage": str(self.folder / "whole"), "ledger": None, "tracking": "none"}
        spec = settle(make_spec({**self.content, **places, "fixed": fixed, "resources": {"max_concurrent": 1}}))
        ledger = Ledger.create(spec.ledger_url, spec.name, ["min"], spec.as_json())
        ledger.take_lease()
        try:
            driver = Driver(spec, ledger, space=toy.space, epochs=epochs_of(spec), room=Room(1), posthoc={})
            InlineBackend().run(driver)
            return facts(ledger)
        finally:
            ledger.close()


def facts(ledger: Ledger) -> list[Any]:
    """All that was decided and measured in a sweep."""
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in ledger.trials]


def title_of(pid: int) -> str:
    """A process's command line; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
