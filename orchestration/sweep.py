"""Opens a sweep, and runs, stops, syncs and describes it. Every command about sweeps starts at `open_sweep`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..datasets.problems import InputError
from ..trainables.training.checkpoints import Checkpoints
from .admission import (
    changes,
    check_places,
    refuse_differences,
    refuse_gpu_hours,
    refuse_other_data,
    refuse_other_space,
)
from .execution.backend import Backend
from .execution.stopping import stop_requests
from .identity import claim_folder, refuse_foreign_folder, refuse_moved
from .ledger.ledger import Ledger
from .ledger.records import SweepState
from .ledger.status import status
from .search.check import checked
from .search.driver import Driver, Observer
from .search.protocol import STOP_MARK
from .search.spaces import search_space
from .search.walks import space_record
from .spec.check import epochs_of
from .spec.data import data_of, prepare_data
from .spec.errors import LeaseTakenError, LedgerUnavailableError, StopRequestedError
from .spec.folders import sweep_folder, trial_folder
from .spec.locations import check_tracking
from .spec.read import draft_spec, make_spec, override, settle
from .spec.schema import SweepSpec
from .tracking.projector import Projector
from .tracking.tracker import Tracker

if TYPE_CHECKING:
    from .registry.requirements import ServingProcess

STOP_TIMEOUT_S = 90.0  # for a driver to end after `sweep stop`
STOP_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of a driver ended."""

    state: SweepState
    cause: str | None = None  # of a halt, or the budget that is spent
    bad_input: bool = False  # the halt is the input's or the disk's fault
    mlflow_behind: str | None = None  # why MLflow lacks something


def check_spec(content: Mapping[str, Any], where: str = "spec") -> SweepSpec:
    """A spec from plain values: its fields, its trainable, its search. Raises InputError with every problem at once,
    `where` first."""
    return checked(draft_spec(content), where, new=True)


def open_sweep(spec: SweepSpec) -> Sweep:
    """The sweep that a checked spec describes: the one that its ledger holds under its name, or a new one, which
    nothing is written of before `run`.

    Raises InputError with the differences where the ledger holds another spec under the name.
    """
    by_rule, spec = spec.tracking is None, settle(spec)
    ledger = Ledger.find(spec.ledger_url, spec.name)
    if ledger is not None and by_rule:  # the record comes before the environment
        spec = spec.model_copy(update={"tracking": ledger.record.spec.get("tracking")})
    sweep = Sweep(spec, ledger)
    try:
        if ledger is not None:
            refuse_differences(ledger, spec)
    except InputError:
        sweep.close()
        raise
    return sweep


def find_sweep(
    ledger_url: str, name: str, tracking: str | None = None, *, storage: str | None = None, readonly: bool = False
) -> Sweep:
    """A sweep by name, with the spec it was started with. The record that is opened is the record that is driven:
    raises InputError when it names another ledger, another storage than `storage` or another MLflow than `tracking`,
    unless it is opened `readonly`, only to look at it. Raises UnknownSweepError."""
    ledger = Ledger.open(ledger_url, name, readonly=readonly)
    sweep = Sweep(make_spec(ledger.record.spec), ledger)
    try:
        if not readonly:
            refuse_moved(sweep.spec, ledger_url, storage)
        if tracking is not None:
            given = settle(sweep.spec.model_copy(update={"tracking": check_tracking(tracking, "--tracking")}))
            if given.tracking_uri != sweep.spec.tracking_uri:
                raise InputError(
                    f"--tracking must be {sweep.spec.tracking_uri or 'none'}, with which sweep {name!r} began, got "
                    f"{given.tracking}; `refsweep sweep adopt {name}` takes another, for a sweep that was moved"
                )
    except InputError:
        sweep.close()
        raise
    return sweep


class Sweep:
    """A sweep that is open: its spec, its ledger, and what can be done with them."""

    def __init__(self, spec: SweepSpec, ledger: Ledger | None) -> None:
        """`ledger` is None for a sweep that has not begun."""
        self.spec = spec
        self._ledger = ledger

    @property
    def ledger(self) -> Ledger:
        """Its record. Raises InputError for a sweep that has not begun."""
        if self._ledger is None:
            raise InputError(f"sweep {self.spec.name!r} has not begun")
        return self._ledger

    def close(self) -> None:
        """Gives back the lease and the connections to its ledger."""
        if self._ledger is not None:
            self._ledger.close()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, changes: Sequence[str]) -> None:
        """Takes `a.b=value` changes of its spec and checks the whole of it. Raises InputError for what may not change
        and with everything that is wrong."""
        spec = checked(draft_spec(override(self.ledger.record.spec, changes)), "spec", new=False)
        refuse_differences(self.ledger, spec)
        self.spec = spec

    def checkpoints(self, number: int) -> Checkpoints:
        """A trial's checkpoints."""
        return Checkpoints(trial_folder(self.spec, number))

    def status(self) -> dict[str, Any]:
        """How it stands, in plain values."""
        return status(self.ledger)

    def run(
        self,
        backend: Backend,
        *,
        observers: Sequence[Observer] = (),
        retry_failed: bool = False,
        resuming: bool = False,
        begun: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Runs it to its end, or continues it. `begun` is called once nothing can be refused any more.

        `resuming` tries again what had halted it; `retry_failed` gives every failed trial a successor. Raises
        InputError before any trial has started, LeaseTakenError while another driver runs it.
        """
        refuse_foreign_folder(self.spec, self._ledger)  # before anything is written
        space = search_space(self.spec.trainable)
        searched = space_record(space.space, self.spec.fixed)
        # a sweep that has begun can be stopped while its data is read; of a new one nothing is written before
        prepared = prepare_data(self.spec) if self._ledger is None else None
        room = check_places(self.spec, backend) if self._ledger is None else None
        ledger = self._take_lease()
        with stop_requests(sweep_folder(self.spec)) as stop_requested:
            try:
                with stop_requested.at_once():
                    data_uri, data_fingerprint = prepared or prepare_data(self.spec)
                    refuse_other_data(ledger, data_fingerprint)
                    refuse_other_space(ledger, searched)
                    claim_folder(self.spec, ledger)
                    room = room or backend.room(self.spec, stop_requested)
                refuse_gpu_hours(self.spec, room)
            except StopRequestedError:
                ledger.update_sweep(state=SweepState.STOPPED)
                return Outcome(SweepState.STOPPED)
            projector = self._projector()
            tracker = Tracker(projector) if projector is not None else None
            driver = Driver(
                self.spec,
                ledger,
                space=space.space,
                epochs=epochs_of(self.spec),
                room=room,
                posthoc=space.POSTHOC,
                data_uri=data_uri,
                data_fingerprint=data_fingerprint,
                observers=[*([tracker] if tracker else []), *observers],
            )
            begun()
            ledger.update_sweep(spec=self.spec.as_json(), state=SweepState.RUNNING, spent=None)
            if resuming:
                driver.forgive()
            if retry_failed:
                driver.retry_failed()
            try:
                backend.run(driver, stop_requested)
            except (LeaseTakenError, LedgerUnavailableError):
                if tracker is not None:
                    tracker.abandon()
                raise
        driver.budget.end()
        return self._finish(driver, tracker)

    def _take_lease(self) -> Ledger:
        modes = [o.mode for o in self.spec.objectives]
        if self._ledger is None:
            self._ledger = Ledger.create(self.spec.ledger_url, self.spec.name, modes, self.spec.as_json())
        self._ledger.take_lease()
        refuse_differences(self._ledger, self.spec)  # another process may have made or changed it meanwhile
        if changes(self._ledger, self.spec):
            self._ledger.begin_anew(modes, self.spec.as_json())
        return self._ledger

    def _projector(self) -> Projector | None:
        uri = self.spec.tracking_uri
        return None if uri is None else Projector(uri, self.ledger, self.checkpoints)

    def _finish(self, driver: Driver, tracker: Tracker | None) -> Outcome:
        ledger = self.ledger
        state = _state_after(driver)
        ledger.update_sweep(state=state)
        behind = None
        if tracker is not None and not tracker.finish(str(state)):
            behind = tracker.problem
        halted_with = ledger.record.halted_with if driver.halted else None
        bad_input = halted_with is not None and halted_with.kind in ("bad_input", "disk_full")
        return Outcome(state, driver.halted or ledger.record.spent, bad_input, behind)

    def promote(self, number: int | None = None, serving: ServingProcess | None = None) -> dict[str, Any]:
        """Registers its best trial, or trial `number`, and makes it champion; the version, as `Registry.promote` gives
        it. Raises InputError where the sweep has no MLflow, and when there is no such trial."""
        from .registry.registry import Registry  # here: imports pandas and torch, which a run's start does not wait for

        uri = self.spec.tracking_uri
        if uri is None:
            raise InputError("tracking: this sweep has none, and models are registered in MLflow")
        refuse_foreign_folder(self.spec, self.ledger)
        return Registry(uri).promote(self.spec, self.ledger, data_of(self.spec), number, serving)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> SweepState:
        """Asks its trials to write a checkpoint and end; the state it comes to, RUNNING when its driver has not ended
        in time. Raises InputError when it has no driver."""
        ledger = self.ledger
        if not ledger.has_driver():
            raise InputError(f"sweep {ledger.sweep!r} is not running: it is {ledger.state}")
        refuse_foreign_folder(self.spec, ledger)
        folder = sweep_folder(self.spec)
        until = time.monotonic() + timeout_s
        while ledger.has_driver() and time.monotonic() < until:
            if not folder.exists(STOP_MARK):  # a driver that is just starting removes the mark once
                folder.write(STOP_MARK, b"")
            time.sleep(STOP_POLL_S)
        ledger.refresh()
        return ledger.state

    def sync(self) -> dict[str, int]:
        """Uploads anything that MLflow missed; counts of `trials` there and of `deleted` stray runs. Raises InputError
        while a driver runs, which does so itself, and where the sweep has no MLflow."""
        ledger = self.ledger
        refuse_foreign_folder(self.spec, ledger)
        ledger.take_lease()
        claim_folder(self.spec, ledger)
        projector = self._projector()
        if projector is None:
            raise InputError("tracking: this sweep has none")
        stored = ledger.record.state
        projector.sweep(str(SweepState.STOPPED if stored is SweepState.RUNNING else stored))
        return projector.reconcile()


def _state_after(driver: Driver) -> SweepState:
    if driver.halted:
        return SweepState.HALTED
    if driver.ledger.running() or driver.ledger.searched() < driver.spec.planned_trials:
        return SweepState.STOPPED
    return SweepState.FINISHED
