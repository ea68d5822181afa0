"""Random sweeps, second by second: every slot-second is counted once, and in the account that it was for.

The real driver, its ledger and its checkpoints; trials are played, and every second that one of them holds a slot is
written down with what it was for. Whatever happens, the sweep's accounts must be the sums of those notes.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from refsweep.orchestration.ledger.accounts import ACCOUNTS
from refsweep.orchestration.ledger.failure import Failure
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.status import budget_status
from refsweep.orchestration.search import budget
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, Report, Room, Verdict
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.tests.help import driver_of
from refsweep.trainables.training.checkpoints import Name, packed

EPOCHS, TRIALS, CPUS = 3, 4, 2
MEMORY = Path("/dev/shm")  # noqa: S108  thousands of small writes


@dataclass
class Life:
    """One attempt: what each second of it was for."""

    assignment: Assignment
    start_s: int  # seconds until its first batch
    epoch_s: int  # seconds of an epoch
    done_s: int = 0  # of the next epoch, by attempts before this one, too
    began_s: float | None = None  # its first batch
    seconds: list[str] = field(default_factory=list)  # startup, kept, or trained: not kept yet
    told: bool = False  # has reported since its training began


class World:
    """A cluster that does as a random number says."""

    names = itertools.count()

    def __init__(self, seed: int, folder: Path, ledger_url: str, *, kills: bool) -> None:
        self.random, self.folder, self.kills = random.Random(seed), folder, kills
        self.ledger_url = ledger_url
        self.now_s, self.slots = 1_000_000.0, self.random.randint(1, 3)
        self.live: dict[int, Life] = {}
        self.name = f"s{next(self.names)}"
        self.partial: dict[int, int] = {}  # seconds of the next epoch in the newest checkpoint
        self.past: dict[int, list[Life]] = {}
        self.offered: Counter[float] = Counter()  # slots in the second that began then, or trials where these are more
        spec = self._spec()
        self.ledger = Ledger.create(spec.ledger_url, self.name, ["min"], spec.as_json())
        self.ledger.take_lease()
        self.driver = self._new_driver()

    def _spec(self) -> SweepSpec:
        return make_spec(
            {
                "name": self.name,
                "trainable": "toy",
                "data": "none",
                "storage": str(self.folder),
                "ledger": self.ledger_url,
                "objective": {"metric": "loss", "mode": "min"},
                "search": {"trials": TRIALS, "sampler": "random", "pruner": "asha", "eta": 2},
                "resources": {"cpus_per_worker": CPUS},
                "fixed": {"epochs": EPOCHS},
                "retry": {"max_retries": 1, "halt_after_same_error": 1000},
            }
        )

    def _new_driver(self) -> Driver:
        """As `run` makes one: of whatever the ledger holds."""
        self.ledger.refresh()
        return driver_of(self._spec(), self.ledger, Room(self.slots), clock=lambda: self.now_s)

    # -- what happens ------------------------------------------------------------------------------------

    def run(self, limit_s: int = 400) -> None:
        """To the sweep's end."""
        for _ in range(limit_s):
            self._fill()
            if not self.live and not self.ledger.running() and self.ledger.searched() == TRIALS:
                break
            self._second()
            self._events()
        self.driver.budget.end()

    def _fill(self) -> None:
        while len(self.live) < self.slots and isinstance(found := self.driver.next_action(), Assignment):
            life = Life(found, self.random.randint(0, 3), self.random.randint(1, 5))
            life.done_s = self.partial.get(found.number, 0)
            life.epoch_s = max(life.epoch_s, life.done_s + 1)
            self.live[found.number] = life

    def _second(self) -> None:
        if self.driver.budget._running:
            self.offered[self.now_s] = max(self.slots, len(self.live))
        self.now_s += 1
        for life in list(self.live.values()):
            if len(life.seconds) < life.start_s:
                life.seconds.append("startup")
                continue
            life.began_s = self.now_s - 1 if life.began_s is None else life.began_s
            life.seconds.append("trained")
            life.done_s += 1
            if life.done_s == life.epoch_s:
                self._epoch(life)
        self.driver.budget.heartbeat()

    def _epoch(self, life: Life) -> None:
        a = life.assignment
        checkpoints = self.driver.checkpoints(a.number)
        newest = checkpoints.newest(verify=False)
        history = newest.history if newest is not None else []
        entry = {
            "epoch": len(history) + 1,
            "time_ms": int(self.now_s * 1000),
            "seconds": float(life.epoch_s),
            "metrics": {"loss": self.random.random()},
            "setting": {},
        }
        final = len(history) + 1 == EPOCHS
        name = Name(a.attempt, len(history) + 1)
        checkpoints.write(name, packed({}, {}), {"history": [*history, entry], "final": final}, set())
        for earlier in (*self.past.get(a.number, ()), life):
            earlier.seconds = ["kept" if s in ("trained", "partial") else s for s in earlier.seconds]
        self.partial[a.number], life.done_s, life.told = 0, 0, True
        if self._report(life, entries=[entry], final=final) is Verdict.END:
            self._over(life)

    def _report(self, life: Life, **fields: Any) -> Verdict:
        a = life.assignment
        return self.driver.on_result(
            Report(number=a.number, attempt=a.attempt, training_began_s=life.began_s, **fields)
        )

    def _over(self, life: Life) -> None:
        self.live.pop(life.assignment.number)
        self.past.setdefault(life.assignment.number, []).append(life)

    def _events(self) -> None:
        for life in list(self.live.values()):
            if self.random.random() < 0.06:
                self._fail(life)
        if self.random.random() < 0.1:
            self.slots = self.random.randint(0, 3)
            self.driver.set_room(Room(self.slots))
        if self.random.random() < 0.04:
            self._stop()
        if self.kills and self.random.random() < 0.04:
            self._lose(list(self.live.values()))
            self._resume()

    def _fail(self, life: Life) -> None:
        a, kind = life.assignment, self.random.choice(["node_lost", "lost", "error", "out_of_memory"])
        failure = Failure(kind, "gone", f"{self.now_s}")
        if kind in ("error", "out_of_memory"):
            life.told = life.told or life.began_s is not None
            self._report(life, failure=failure)
        else:
            self.driver.on_attempt_lost(a.number, a.attempt, failure)
        self._lose([life])

    def _lose(self, lives: list[Life]) -> None:
        for life in lives:  # of an attempt that has said nothing of its training, nobody knows of it
            lost = "lost" if life.told else "startup"
            life.seconds = [lost if s == "trained" else s for s in life.seconds]
            self._over(life)

    def _stop(self) -> None:
        self.driver.request_stop()
        for life in list(self.live.values()):
            if life.began_s is None:  # still starts when its time is over
                continue
            self._save_within_epoch(life)
            if not self.kills or self.random.random() < 0.5:
                self._report(life, stopped=True)
            self._over(life)
        self._lose(list(self.live.values()))
        self.driver.budget.end()
        self._resume()

    def _save_within_epoch(self, life: Life) -> None:
        a = life.assignment
        checkpoints = self.driver.checkpoints(a.number)
        newest = checkpoints.newest(verify=False)
        history = newest.history if newest is not None else []
        if life.done_s:
            name = Name(a.attempt, len(history), life.done_s)
            checkpoints.write(name, packed({}, {}), {"history": history, "final": False}, set())
            self.partial[a.number] = life.done_s
        life.seconds = ["partial" if s == "trained" else s for s in life.seconds]

    def _resume(self) -> None:
        self.now_s += self.random.randint(0, 1000)
        self.driver = self._new_driver()

    # -- what it was for ---------------------------------------------------------------------------------

    def accounts(self) -> dict[str, int]:
        """Device-seconds by account, from the notes alone."""
        sums = Counter(dict.fromkeys(ACCOUNTS, 0))
        for trial in self.ledger.trials:
            now = [self.live[trial.number]] if trial.number in self.live else []
            for life in (*self.past.get(trial.number, ()), *now):
                last = life.assignment.attempt == trial.user_attrs["attempt"]
                for second in life.seconds:
                    sums[_account(trial, second, last=last)] += CPUS
        held = sum(len(life.seconds) for lives in self.past.values() for life in lives)
        held += sum(len(life.seconds) for life in self.live.values())
        sums["waiting"] = (sum(self.offered.values()) - held) * CPUS
        return dict(sums)


def _account(trial: Any, second: str, *, last: bool) -> str:
    if not trial.state.is_finished():
        return "unfinished"
    if second == "startup":
        return "startup"
    infeasible = trial.user_attrs.get("cause", "").startswith("infeasible")
    if trial.state == TrialState.FAIL or infeasible:
        return "failed"
    if second == "lost" and not last:
        return "repeated"
    return "useful" if trial.state == TrialState.COMPLETE else "pruned"


Play = Callable[..., tuple[World, dict[str, float]]]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    """Runs a random sweep; gives it with its accounts in device-seconds."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(budget, "HEARTBEAT_S", 1.0)  # a killed driver is known to have lived to the end

        def played(seed: int, *, kills: bool) -> tuple[World, dict[str, float]]:
            with tempfile.TemporaryDirectory(dir=folder) as storage:
                world = World(seed, Path(storage), f"sqlite:///{folder}/ledger.db", kills=kills)
                world.run()
                found = budget_status(world.ledger, None)
                world.ledger.close()
            return world, {name: round(found[f"{name}_hours"] * 3600, 6) for name in ACCOUNTS}

        yield played


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_every_second_is_in_the_account_that_it_was_for(play: Play, seed: int):
    world, found = play(seed, kills=False)
    assert found == world.accounts()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_accounts_add_up_to_what_was_offered_whoever_is_killed(play: Play, seed: int):
    world, found = play(seed, kills=True)
    assert all(seconds >= 0 for seconds in found.values())
    assert sum(found.values()) == sum(world.offered.values()) * CPUS
    assert found["waiting"] == world.accounts()["waiting"]


def test_the_worlds_have_all_that_can_happen(play: Play):
    worlds = [play(seed, kills=False)[1] for seed in range(8)]
    assert all(any(found[name] for found in worlds) for name in ACCOUNTS if name != "unfinished")
