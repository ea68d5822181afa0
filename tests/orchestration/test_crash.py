"""Killed between any two writes, a sweep ends as it would have: resumed == undisturbed, bit for bit.

One slot, in this process, no Ray. Every write to ledger, checkpoint folder, MLflow and registry goes through one of
five doors; the folder is copied at each, which is what a process killed there leaves behind, and a sweep is resumed
from every copy. A registry is looked at by one command, which repairs it, and the command that was stopped is repeated.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry.history import Phase, champions, moves_of
from refsweep.orchestration.registry.registry import Registry
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.spec.folders import trial_folder
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.tracking.projector import SPENT_PREFIX, TRIAL, Projector
from refsweep.tests.help import driver_of, new_ledger
from refsweep.tests.orchestration.registry.light import swept, without_files
from refsweep.trainables.training.checkpoints import Checkpoints

DOORS: list[tuple[type, str]] = [
    (Ledger, "_write"),
    (Store, "write"),
    (Store, "delete"),
    (Projector, "_send"),
    (Registry, "_write"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Two processes that resume: the copies do not know of each other."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files are written and synced."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


# Seeds with which some trials are pruned and some are not.
SEEDS = {("tpe", "asha"): 6, ("tpe", "hyperband"): 5, ("random", "asha"): 0, ("random", "hyperband"): 0}


def spec_of(storage: Path, sampler: str, pruner: str, trials: int = 3, **fixed: Any) -> SweepSpec:
    search = {
        "trials": trials,
        "sampler": sampler,
        "pruner": pruner,
        "seed": SEEDS.get((sampler, pruner), 0),
        "startup": 2 if sampler == "tpe" else None,
        "eta": 2,
    }
    return make_spec(
        {
            "name": "crash",
            "trainable": "toy",
            "data": "none",
            "storage": str(storage),
            "objective": {"metric": "loss", "mode": "min"},
            "search": search,
            "fixed": {"epochs": 3, "noise": 2.0, **fixed},
            "retry": {"max_retries": 1, "halt_after_same_error": 9},
        }
    )


class Projecting:
    """Brings MLflow up to date with every change, in the driver's own thread."""

    def __init__(self, projector: Projector) -> None:
        self.projector = projector

    def attached(self, driver: Driver) -> None:
        self.projector.live = lambda number: number in driver.live
        self.projector.sweep("running")

    def trial_changed(self, number: int) -> None:
        self.projector.trial(number)

    def ticked(self) -> None:
        pass


def drive(spec: SweepSpec) -> Driver:
    """Runs the sweep to its end, from whatever is there."""
    ledger = new_ledger(spec)
    assert spec.tracking_uri is not None
    projector = Projector(spec.tracking_uri, ledger, lambda number: Checkpoints(trial_folder(spec, number)))
    driver = driver_of(spec, ledger, observers=[Projecting(projector)])
    InlineBackend().run(driver)
    projector.reconcile()
    projector.sweep("finished")
    return driver


def signature(driver: Driver) -> dict[str, Any]:
    """All that a crash must not change: trials, their values, final weights, and what MLflow remembers."""
    trials = []
    for t in driver.ledger.trials:
        newest = driver.checkpoints(t.number).newest()
        assert newest is not None or t.state.name == "FAIL"
        weights = hashlib.sha256(newest.store.read(f"{newest.name}/model.safetensors")).hexdigest() if newest else None
        constraints = {k: v for k, v in t.system_attrs.items() if k.startswith("constraints")}
        trials.append(
            (
                t.number,
                t.state.name,
                t.params,
                t.values,
                t.intermediate_values,
                t.user_attrs["config"],
                constraints,
                weights,
            )
        )
    return {"trials": trials, "mlflow": mlflow_signature(driver), "lease": driver.ledger.has_driver()}


def mlflow_signature(driver: Driver) -> list[Any]:
    projector = Projector(str(driver.spec.tracking_uri), driver.ledger, driver.checkpoints)
    found = []
    for run in projector._search("tags.`refsweep.sweep` = 'crash'"):
        metrics = {
            key: sorted((m.step, m.value) for m in projector.client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
            if not key.startswith(SPENT_PREFIX)  # how long it took
        }
        found.append(
            (
                run.data.tags.get(TRIAL, "parent"),
                run.info.status,
                sorted(run.data.params.items()),
                sorted(metrics.items()),
            )
        )
    return sorted(found, key=lambda r: str(r[0]))


def tree_hash(folder: Path) -> str:
    """Of all files but SQLite's shared-memory index, which a reader may touch, and the lease, which is empty."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-shm", ".lease"))):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


class Copies:
    """Copies a folder before the first write and after every one; `made` hears of each copy."""

    def __init__(self, folder: Path, to: Path, patch: pytest.MonkeyPatch, made: Callable[[Path], None]) -> None:
        self.folder, self.to, self.made = folder, to, made
        self.names: list[str] = []
        self.unseen: list[str] = []  # writes that came through no door
        self._last = ""
        for owner, name in DOORS:
            patch.setattr(owner, name, self._watched(getattr(owner, name), f"{owner.__name__}.{name}"))

    def _watched(self, write: Callable[..., Any], name: str) -> Callable[..., Any]:
        def through(*args: Any, **kwargs: Any) -> Any:
            before = tree_hash(self.folder)
            if self._last and before != self._last:
                self.unseen.append(name)
            if not self.names:
                self._copy("start")
            result = write(*args, **kwargs)
            self._last = tree_hash(self.folder)
            if self._last != before:
                self._copy(name)
            return result

        return through

    def _copy(self, name: str) -> None:
        copy = shutil.copytree(self.folder, self.to / str(len(self.names)))
        self.names.append(name)
        self.made(copy)


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_killed_after_any_write_ends_as_if_undisturbed(
    sampler: str, pruner: str, fast: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
):
    undisturbed = crash_everywhere(spec_of(fast / "whole", sampler, pruner), fast, pool, monkeypatch)
    assert {t[1] for t in undisturbed["trials"]} == {"COMPLETE", "PRUNED"}


def test_the_same_with_trials_that_fail_and_trials_that_diverge(
    fast: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
):
    failing = crash_everywhere(spec_of(fast / "whole", "random", "none", 2, fail_at_epoch=2), fast, pool, monkeypatch)
    assert {t[1] for t in failing["trials"]} == {"FAIL"}


def test_the_same_with_losses_that_are_not_a_number(fast: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch):
    diverging = crash_everywhere(spec_of(fast / "whole", "tpe", "none", 2, nan_at_epoch=2), fast, pool, monkeypatch)
    assert {t[1] for t in diverging["trials"]} == {"PRUNED"}
    assert all(t[6] == {"constraints:non_finite": 1.0} for t in diverging["trials"])


def crash_everywhere(spec: SweepSpec, fast: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a sweep, resumes it from the state after every write, compares; gives the undisturbed signature."""
    whole = Path(spec.storage)
    resumed: list[Future[dict[str, Any]]] = []

    def submit(copy: Path) -> None:
        resumed.append(pool.submit(resume, {**spec.as_json(), "storage": str(copy)}))

    with monkeypatch.context() as patch:
        copies = Copies(whole, fast / "copies", patch, submit)
        driver = drive(spec)
    undisturbed = signature(driver)
    driver.ledger.close()
    assert copies.unseen == [], "a write came through no door"
    assert {name.partition(".")[0] for name in copies.names} >= {"Ledger", "Store", "Projector"}
    for point, (name, future) in enumerate(zip(copies.names, resumed, strict=True)):
        found = future.result()
        assert same(found, undisturbed), f"killed after write {point} ({name})\n{found}\n{undisturbed}"
    return undisturbed


def resume(spec_json: dict[str, Any]) -> dict[str, Any]:
    """Resumes a sweep from its folder, in whatever process, and throws the folder away."""
    spec = make_spec(spec_json)
    driver = drive(spec)
    found = signature(driver)
    driver.ledger.close()
    shutil.rmtree(spec.storage)
    return found


# What is done to a registry, in this order.
COMMANDS: list[Callable[[Registry, SweepSpec, Ledger], Any]] = [
    lambda registry, spec, ledger: registry.promote(spec, ledger, None, 0),
    lambda registry, spec, ledger: registry.promote(spec, ledger, None, 1),
    lambda registry, spec, ledger: registry.rollback("toy"),
]


def test_a_registry_stopped_after_any_write_is_repaired_by_the_next_command(
    fast: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
):
    spec, ledger = swept(fast / "whole", trials=2, synced=True)
    states: list[Standing] = [NOTHING]
    repaired: list[tuple[int, Future[tuple[Standing, Standing | None]]]] = []
    with without_files(), monkeypatch.context() as patch:
        registry = Registry(str(spec.tracking_uri))

        def submit(copy: Path) -> None:
            stopped = len(states) - 1
            repaired.append((stopped, pool.submit(repair, {**spec.as_json(), "storage": str(copy)}, stopped)))

        copies = Copies(Path(spec.storage), fast / "copies", patch, submit)
        for command in COMMANDS:
            command(registry, spec, ledger)
            states.append(standing(registry))
    ledger.close()
    assert copies.unseen == [], "a write came through no door"
    assert copies.names.count("Registry._write") >= 15
    assert [state[:2] for state in states[2:]] == [
        ({"champion": "2", "previous": "1"}, ["1", "2"]),
        ({"champion": "1"}, ["1"]),
    ]
    for point, (name, (stopped, future)) in enumerate(zip(copies.names, repaired, strict=True)):
        looked, again = future.result()
        where = f"stopped after write {point} ({name}) of command {stopped}"
        assert looked[:2] in [s[:2] for s in states[stopped : stopped + 2]], where
        assert again is None or again == states[stopped + 1], where


# Aliases; champions, of which the last one is; the versions of each trial.
Standing = tuple[dict[str, str], list[str], dict[str, list[int]]]
NOTHING: Standing = ({}, [], {})


def standing(registry: Registry) -> Standing:
    """How a registry stands. Reads alone."""
    if not registry.client.search_registered_models():
        return NOTHING
    stored = registry.client.get_registered_model("toy")
    moves = moves_of(stored.tags)
    assert not [move for move in moves if move.state is Phase.OPEN]
    versions: dict[str, list[int]] = {}
    for version in registry.client.search_model_versions("name = 'toy'"):
        versions.setdefault(version.tags["refsweep.trial"], []).append(int(version.version))
    return {alias: str(at) for alias, at in stored.aliases.items()}, champions(moves), versions


def repair(spec_json: dict[str, Any], stopped: int) -> tuple[Standing, Standing | None]:
    """How a registry stands after a command that only looks, and after the one that was stopped is repeated: a rollback
    that has taken place is not."""
    spec = make_spec(spec_json)
    ledger = Ledger.open(spec.ledger_url, spec.name)
    with without_files():
        registry = Registry(str(spec.tracking_uri))
        registry.models()
        looked = standing(registry)
        again = None
        if stopped < len(COMMANDS) - 1 or looked[0]["champion"] == "2":
            COMMANDS[stopped](registry, spec, ledger)
            again = standing(registry)
    ledger.close()
    shutil.rmtree(spec.storage)
    return looked, again


def same(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
