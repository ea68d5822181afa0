"""Runs, resumes, stops and describes sweeps: brings spec, data, ledger, Ray, MLflow and a view together."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables.training.checkpoints import Checkpoints
from .cli.live_view import View
from .cli.output import tell
from .ledger.ledger import Ledger
from .ledger.status import state_of
from .search.budget import SPENT
from .search.driver import Driver
from .search.protocol import STOP_MARK
from .search.spaces import check_space, search_space
from .spec.absolute import settle as settle
from .spec.data import prepare_data
from .spec.schema import SweepSpec, differences, make_spec, override
from .tracking.projector import Projector
from .tracking.tracker import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of a driver ended."""

    state: str  # finished, stopped, halted
    cause: str | None  # of a halt, or the budget that is spent
    bad_input: bool  # the halt is the input's or the disk's fault
    behind: str | None  # why MLflow lacks something
    ledger: Ledger


def run(
    spec: SweepSpec,
    connected: Callable[[], None],
    *,
    plain: bool | None = None,
    retry_failed: bool = False,
    resuming: bool = False,
    begun: Callable[[], None] = lambda: None,
) -> Outcome:
    """Starts a sweep, or goes on with it. `connected` waits for Ray; `begun` is called once nothing can be refused any
    more. Raises InputError before anything has started."""
    from .execution import resources

    spec = settle(spec)
    module_space = search_space(spec.trainable)
    check_space(spec, module_space.space)
    stored = Ledger.find(spec.ledger_url, spec.name)
    if stored is not None:
        _compare(stored, spec)
        stored.close()
    data, mark = prepare_data(spec)
    ledger = Ledger.create(spec.ledger_url, spec.name, [o.mode for o in spec.objectives], spec.as_json())
    try:
        ledger.take_lease()
        _compare(ledger, spec)
        _same_data(ledger, mark)
        connected()
        found = resources.wait_for_room(spec, tell)
        driver = Driver(
            spec,
            ledger,
            module_space.space,
            posthoc=module_space.POSTHOC,
            data=data,
            fingerprint=mark,
            slots=found.slots,
            gpus=found.gpus_per_worker,
        )
        begun()
        return _drive(driver, plain, retry_failed, resuming)
    except BaseException:
        ledger.close()
        raise


def _compare(ledger: Ledger, spec: SweepSpec) -> None:
    changed = differences(ledger.attributes["spec"], spec.as_json())
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise InputError(f"sweep {spec.name!r} exists with another spec; give this one another name, or undo:\n{lines}")


def _same_data(ledger: Ledger, mark: str) -> None:
    known = ledger.attributes.get("data")
    if known is None:
        ledger.set_attribute("data", mark)
    elif known != mark:
        raise InputError(f"the data has changed since sweep {ledger.sweep!r} began: it was {known}, it is {mark}")


def _drive(driver: Driver, plain: bool | None, retry_failed: bool, resuming: bool) -> Outcome:
    from .execution import tune as executor
    from .execution.head_watch import watched_head

    ledger, spec = driver.ledger, driver.spec
    if ledger.attributes["spec"] != spec.as_json():
        ledger.set_attribute("spec", spec.as_json())
    ledger.set_attribute("state", "running")
    if ledger.attributes.get(SPENT) is not None:
        ledger.set_attribute(SPENT, None)
    if resuming:
        driver.forgive()
    if retry_failed:
        driver.retry_failed()
    tracker = _tracker(driver)
    with View(driver, plain=plain) as view, _asked_to_stop(spec) as stop_asked, watched_head(spec.name, tell):
        executor.run_on_tune(driver, stop_asked, view.tick)
    driver.budget.end()
    state = _state_of(driver)
    ledger.set_attribute("state", state)
    behind = None
    if tracker is not None and not tracker.finish(state):
        behind = tracker.problem
    kind = (ledger.attributes.get("halted_with") or {}).get("kind") if driver.halted else None
    return Outcome(
        state, driver.halted or ledger.attributes.get(SPENT), kind in ("bad_input", "disk_full"), behind, ledger
    )


def _tracker(driver: Driver) -> Tracker | None:
    uri = driver.spec.tracking_uri
    if uri is None:
        return None
    projector = Projector(uri, driver.ledger, driver.checkpoints)
    projector.live = lambda number: number in driver.live
    tracker = Tracker(projector)
    driver.changed = tracker.trial_changed
    for trial in driver.ledger.trials:
        tracker.trial_changed(trial.number)
    return tracker


def _state_of(driver: Driver) -> str:
    if driver.halted:
        return "halted"
    if driver.ledger.running():
        return "stopped"
    return "finished" if driver.ledger.searched() >= driver.spec.planned_trials else "stopped"


@contextlib.contextmanager
def _asked_to_stop(spec: SweepSpec) -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C, SIGTERM or `sweep stop` has asked for an end. A second Ctrl-C ends at once. Nobody waits
    for the answer, not even while the storage is away."""
    from .execution.attempt import StopWatch

    asked = threading.Event()
    folder = Store(spec.storage).child(spec.name)
    folder.delete(STOP_MARK)  # an earlier request
    watch = StopWatch(folder.uri)

    def on_signal(number: int, _: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    on_main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if on_main else {}
    try:
        yield lambda: asked.is_set() or watch()
    finally:
        watch.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def stored_spec(ledger: Ledger, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec a sweep was started with, with `a.b=value` overrides."""
    return make_spec(override(ledger.attributes["spec"], overrides))


def stop(ledger: Ledger, wait_s: float = 90.0) -> str:
    """Asks a sweep's trials to write a checkpoint and end; the state it comes to. Raises InputError when it has no
    driver."""
    if not ledger.has_driver():
        raise InputError(f"sweep {ledger.sweep!r} is not running: it is {state_of(ledger)}")
    spec = stored_spec(ledger)
    Store(spec.storage).child(spec.name).write(STOP_MARK, b"")
    until = time.monotonic() + wait_s
    while ledger.has_driver() and time.monotonic() < until:
        time.sleep(0.5)
    ledger.refresh()
    return state_of(ledger)


def sync(ledger: Ledger) -> dict[str, int]:
    """Sends MLflow all that it lacks. Raises InputError while a driver runs, which does so itself."""
    ledger.take_lease()
    spec = stored_spec(ledger)
    if spec.tracking_uri is None:
        raise InputError("tracking: this sweep has none")
    store = Store(spec.storage).child(spec.name)
    projector = Projector(spec.tracking_uri, ledger, lambda number: Checkpoints(store.child(str(number))))
    counts = projector.reconcile()
    state = state_of(ledger) if ledger.attributes.get("state") != "running" else "stopped"
    projector.sweep(state)
    return counts
