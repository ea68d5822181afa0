"""Runs what a driver decides on Ray Tune.

Tune starts and stops actors, and nothing else: retries, pruning, results and resuming are the ledger's. So it
gets no failures to retry, no loggers, a temporary folder, and a searcher and a scheduler that ask the driver.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ...datasets.problems import InputError
from ..ledger.failure import Failure
from ..search.driver import Driver
from ..search.failures import first_line, lost_worker
from ..search.protocol import STOP_MARK, Action, NoTrial, Room, StopRequested, Verdict, report_from_text
from ..spec.errors import LeaseTakenError, LedgerUnavailableError
from ..spec.folders import sweep_folder
from ..spec.schema import SweepSpec
from .actor import TrialActor
from .groups import SweepGroups
from .head_watch import watched_head
from .resources import remove_orphaned_placement_groups, room_now, wait_for_room
from .scratch import own_folder
from .tune_environment import tune_environment as _tune_environment

log = logging.getLogger(__name__)
T = TypeVar("T")
STOP_TIMEOUT_S = 60.0  # for trials to write a checkpoint before they are ended
TICK_POLL_S = 0.5  # how often hangs and requests to stop are looked for
BUSY_DRIVER_S = 5.0  # a driver that was busy for longer has not read what trials reported meanwhile
NODES_POLL_S = 5.0  # how often the cluster's nodes are counted


class TuneBackend:
    """Trials on Ray Tune. `connected` waits until Ray is; `tell` shows a person what is waited for."""

    def __init__(self, connected: Callable[[], None], tell: Callable[[str], None]) -> None:
        self._connected, self._tell = connected, tell

    def room(self, spec: SweepSpec, stop_requested: StopRequested) -> Room:
        """What the cluster has room for, once one trial fits."""
        self._connected()
        return wait_for_room(spec, self._tell, stop_requested)

    def run(self, driver: Driver, stop_requested: StopRequested) -> None:
        """Runs a sweep to its end, or until it is to stop."""
        several = driver.spec.resources.worker_range != (1, 1)
        bridge = _Bridge(driver, stop_requested)
        with watched_head(driver.spec.name, self._tell):
            try:
                _fit(bridge, several)
                bridge.raise_loss()
            except RayError as error:
                log.warning("Ray ended the sweep: %s", first_line(error))
                raise
            finally:
                if several:
                    remove_orphaned_placement_groups()


def _fit(bridge: _Bridge, several: bool) -> None:
    # an actor that only holds workers needs nothing, but Tune refuses nothing
    driver = bridge.driver
    own = {"CPU": driver.spec.resources.cpus_per_worker, "GPU": driver.room.gpus_per_worker}
    needed = {"memory": 64 * 2**20} if several else own
    resources = SweepGroups(needed, driver.spec.name, driver.ledger.record.id)
    with own_folder("refsweep-tune-", tempfile.gettempdir()) as folder, _tune_environment():
        tune.Tuner(
            tune.with_resources(TrialActor, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Ask(bridge), scheduler=_Judge(bridge), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(folder),
                stop=_StopAll(bridge),
                callbacks=[_Tick(bridge)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


class _NotKept:
    """Tune pickles its parts for a restore that never comes: these leave the driver behind."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Ask(_NotKept, Searcher):
    """Tune's searcher: passes on what the driver wants to run."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__(metric="done", mode="max")
        self.bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        return self.bridge.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler hears it, with the trial."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Judge(_NotKept, FIFOScheduler):
    """Tune's scheduler: the driver's verdict after every report."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP if self.bridge.on_result(trial, result) is Verdict.END else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.bridge.on_result(trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.bridge.on_actor_lost(trial)


class _Tick(_NotKept, tune.Callback):
    """About ten times a second: hangs, requests to stop, the view."""

    def __init__(self, bridge: _Bridge) -> None:
        self.bridge = bridge

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.bridge.tick(trials)


class _StopAll(_NotKept, tune.Stopper):
    """Ends Tune when the driver wants no more and live trials had their time."""

    def __init__(self, bridge: _Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.bridge.finished()


class _Bridge:
    """Between Tune's trials and the driver's."""

    def __init__(self, driver: Driver, stop_requested: StopRequested) -> None:
        self.driver, self.stop_requested = driver, stop_requested
        self._attempts: dict[str, tuple[int, int]] = {}  # Tune's id -> number, attempt
        self._reported_s: dict[str, float] = {}  # when a trial last reported
        self._hung: set[str] = set()
        self._loss: InputError | None = None  # why we may write no more
        self._end_s: float | None = None  # when live trials are ended, once they were asked to stop
        self._ticked_s = self._counted_s = time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        if len(self.driver.live) >= self.driver.room.slots:
            return None
        if self.stop_requested():  # a trial that starts now would end before the next tick
            self.driver.request_stop()
        finished: Action = NoTrial.FINISHED
        action = self._driven(self.driver.next_action, finished)
        if isinstance(action, NoTrial):
            return Searcher.FINISHED if action is NoTrial.FINISHED else None
        self._attempts[trial_id] = (action.number, action.attempt)
        return {"assignment": asdict(action)}

    def on_result(self, trial: Any, result: dict[str, Any] | None) -> Verdict:
        self._reported_s[trial.trial_id] = time.monotonic()
        if not result or "report" not in result:
            return Verdict.END
        report = report_from_text(result["report"])
        try:
            return self._driven(lambda: self.driver.on_result(report), Verdict.END)
        finally:
            self._driven(self.driver.tick, None)

    def on_actor_lost(self, trial: Any) -> None:
        number, attempt = self._attempts[trial.trial_id]
        if trial.trial_id in self._hung:
            failure = Failure("hang", f"silent for {self.driver.spec.retry.hang_s:g} s, killed")
        else:
            failure = lost_worker(_error_text(trial))
        self._driven(lambda: self.driver.on_attempt_lost(number, attempt, failure), Verdict.END)
        self._driven(self.driver.tick, None)

    def tick(self, trials: list[Any]) -> None:
        now = time.monotonic()
        if now - self._ticked_s < TICK_POLL_S:
            return
        since, self._ticked_s = now - self._ticked_s, now
        if since > BUSY_DRIVER_S:  # the ledger was away: what trials reported meanwhile has not been read
            self._reported_s = {trial: at_s + since for trial, at_s in self._reported_s.items()}
        self._kill_hung(trials, now)
        self._driven(lambda: self._tick(now), None)

    def _tick(self, now: float) -> None:
        if now - self._counted_s > NODES_POLL_S:
            self._counted_s = now
            self._count_nodes()
        if (self.stop_requested() or self.driver.must_stop()) and self._end_s is None:
            self.driver.ledger.still_ours()  # the mark would stop the trials of whoever has taken over
            self.driver.request_stop()
            self._end_s = now + STOP_TIMEOUT_S
            with contextlib.suppress(OSError):  # a full disk: trials end without a checkpoint of this epoch
                sweep_folder(self.driver.spec).write(STOP_MARK, b"")
        self.driver.tick()

    def _kill_hung(self, trials: list[Any], now: float) -> None:
        for trial in trials:
            # an actor can hang before its trial runs, too: while it is reset for it
            actor = trial.temporary_state.ray_actor
            if actor is None or trial.is_finished() or trial.trial_id in self._hung:
                continue
            silent_s = now - self._reported_s.setdefault(trial.trial_id, now)
            if silent_s > self.driver.spec.retry.hang_s:
                self._hung.add(trial.trial_id)
                ray.kill(actor)

    def _count_nodes(self) -> None:
        """Nodes come and go: so do the trials that fit."""
        self.driver.set_room(room_now(self.driver.spec))
        if self.driver.spec.resources.worker_range != (1, 1):
            remove_orphaned_placement_groups()

    def _driven(self, what: Callable[[], T], otherwise: T) -> T:
        """What the driver answers; `otherwise` once sweep or ledger are no longer ours, which ends Tune: an exception
        it would take for a trial's failure."""
        if self._loss is None:
            try:
                return what()
            except (LeaseTakenError, LedgerUnavailableError) as error:
                self._loss = error
        return otherwise

    def raise_loss(self) -> None:
        """Raises what has ended the sweep, if that was it."""
        if self._loss is not None:
            raise self._loss

    def finished(self) -> bool:
        return self._loss is not None or (
            self._end_s is not None and (not self.driver.live or time.monotonic() > self._end_s)
        )


def _error_text(trial: Any) -> str:
    """Ray's text on why a trial's actor is gone: Tune keeps it in a file, under a line of its own."""
    try:
        return Path(trial.error_file).read_text().partition("\n")[2]
    except (OSError, TypeError):
        return ""
