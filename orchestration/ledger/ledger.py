"""The ledger: one record of a sweep that everything which decides reads, and which is written first.

An Optuna study in SQL, SQLite or PostgreSQL by one code path. It holds each trial's parameters, intermediate
values and state, and as attributes what `records` lists. One driver a sweep holds the lease and is the only writer;
readers need none.

Every write goes through `Ledger._write`: it is retried after a lost connection, and tests crash there. What a driver
reads waits likewise.
"""

from __future__ import annotations

import copy
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, Unpack

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ..spec.errors import LedgerUnavailableError
from ..spec.locations import sqlite_path
from .creating import SPEC, TERM, make_study
from .database import LedgerAwayError, UnknownSweepError, first_line, is_full, open_for_reading, open_storage, reason
from .held import HeldLedger
from .records import SweepChanges, SweepRecord, SweepState, TrialChanges, TrialRecord, attributes
from .sql import as_stored, plain, taken_over
from .stored import readable

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_TIMEOUT_S = 120.0  # how long a driver waits for a database that is away
_INHERITED = ("config", "data")  # attributes that a retry takes over from the failed trial


class Ledger(HeldLedger):
    """The record of one sweep. `trials` is what is stored, by number; it follows every write."""

    @classmethod
    def create(cls, url: str, sweep: str, directions: Sequence[str], spec: Mapping[str, Any]) -> Ledger:
        """The record of a sweep, made if it is new; `directions` are `max` or `min`, one an objective."""
        opened = open_storage(url, create=True)
        attributes = {SPEC: dict(spec), "id": str(uuid.uuid4()), TERM: 0}
        return cls(url, sweep, opened, make_study(opened.storage.engine, sweep, _ways(directions), attributes))

    @classmethod
    def open(cls, url: str, sweep: str, *, readonly: bool = False) -> Ledger:
        """The record of a sweep that exists; `readonly` needs no right to write. Raises UnknownSweepError with the
        names there are."""
        opened = open_for_reading(url) if readonly else open_storage(url, create=False)
        try:
            with readable(url):
                study = opened.study(sweep)
                if study is not None:
                    return cls(url, sweep, opened, study)
                names = ", ".join(opened.sweeps()) or "none"
        except InputError:
            opened.close()
            raise
        opened.close()
        raise UnknownSweepError(f"no sweep {sweep!r} in {url}; there are: {names}")

    @classmethod
    def find(cls, url: str, sweep: str) -> Ledger | None:
        """The record of a sweep, None where there is none."""
        try:
            return cls.open(url, sweep)
        except UnknownSweepError:
            return None

    # -- the sweep ---------------------------------------------------------------------------------------

    @property
    def record(self) -> SweepRecord:
        """The sweep's attributes."""
        if self._record is None:
            self._record = SweepRecord.from_attributes(self._attributes)
        return self._record

    @property
    def state(self) -> SweepState:
        """How the sweep stands now: what a killed driver left as running is stopped."""
        state = self.record.state
        return SweepState.STOPPED if state is SweepState.RUNNING and not self.has_driver() else state

    def update_sweep(self, **changes: Unpack[SweepChanges]) -> None:
        """Writes attributes of the sweep, those that differ from what is stored."""
        for key, value in attributes(changes).items():
            if key not in self._attributes or self._attributes[key] != value:
                self._write_attribute(key, value)

    def begin_anew(self, directions: Sequence[str], spec: Mapping[str, Any]) -> None:
        """Becomes the record of another spec's sweep; there must be no trial."""
        ways, forget = _ways(directions), ("data", "space", "halted", "halted_with", "spent", "forgiven")
        self._write(lambda: self._writer.begin_anew(ways, {SPEC: dict(spec)}, forget))
        self.refresh()

    def set_run_id(self, number: int, run_id: str) -> None:
        """Writes which MLflow run is a trial's. An attribute of the sweep: a finished trial takes no more, and MLflow
        may be away until long after."""
        self._write_attribute(f"run:{number}", run_id)

    def _write_attribute(self, key: str, value: Any) -> None:
        self._write(lambda: self._writer.set_attribute(key, value))
        self._attributes[key] = value
        self._record = None

    # -- trials ------------------------------------------------------------------------------------------

    def create_trial(self, template: FrozenTrial) -> FrozenTrial:
        """A new RUNNING trial from a template with parameters and attributes, in one write."""
        template.datetime_start = datetime.now()
        number = len(self.trials)
        trial_id = self._write(lambda: self._writer.create(template, number))
        if len(self.trials) > number:  # read anew, after a lost connection
            return self.trials[number]
        if trial_id is not None:
            self.trials.append(as_stored(template, number, trial_id))
        else:  # made before, and the answer was lost
            by_number = self._storage.get_trial_id_from_study_id_trial_number
            trial = self._retried(lambda: self._storage.get_trial(by_number(self._study_id, number)))
            if len(self.trials) == number:
                self.trials.append(trial)
        return self.trials[number]

    def create_retry(self, failed: FrozenTrial) -> FrozenTrial:
        """A RUNNING trial that continues a failed one: same parameters, `retry_of` names it."""
        inherited = {k: v for k, v in failed.user_attrs.items() if k in _INHERITED}
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            params=failed.params,
            distributions=failed.distributions,
            user_attrs={**inherited, "attempt": 1, "retry_of": failed.number},
            system_attrs={k: v for k, v in failed.system_attrs.items() if not k.startswith("constraints")},
        )
        return self.create_trial(template)

    def trial_record(self, number: int) -> TrialRecord:
        """A trial's attributes."""
        return TrialRecord.of(self.trials[number])

    def update_trial(self, number: int, **changes: Unpack[TrialChanges]) -> None:
        """Writes attributes of a running trial, those that differ from what is stored."""
        for key, value in attributes(changes).items():
            self._note(number, key, plain(value))

    def _note(self, number: int, key: str, value: Any) -> None:
        trial = self.trials[number]
        if trial.user_attrs.get(key) != value:
            self._write(lambda: self._writer.note(trial._trial_id, key, value))
            self.trials[number].user_attrs[key] = value

    def report(self, number: int, epoch: int, values: Sequence[float]) -> None:
        """A finished epoch's objective: an intermediate value, or of several objectives an attribute."""
        if len(self.directions) > 1:
            self._note(number, f"values:{epoch:04d}", list(values))
            return
        trial = self.trials[number]
        self._write(lambda: self._writer.report(trial._trial_id, epoch, float(values[0])))
        self.trials[number].intermediate_values[epoch] = float(values[0])

    def reported(self, number: int) -> set[int]:
        """Epochs whose objective is here."""
        trial = self.trials[number]
        if len(self.directions) > 1:
            return {int(key.partition(":")[2]) for key in trial.user_attrs if key.startswith("values:")}
        return set(trial.intermediate_values)

    def violate(self, number: int, name: str) -> None:
        """Marks a trial as infeasible, so that samplers avoid its region: they ignore failed trials."""
        trial = self.trials[number]
        key = f"constraints:{name}"
        if key not in trial.system_attrs:
            self._write(lambda: self._writer.mark(trial._trial_id, key, 1.0))
            self.trials[number].system_attrs[key] = 1.0

    def tell(
        self, number: int, state: TrialState, values: Sequence[float] | None, **changes: Unpack[TrialChanges]
    ) -> None:
        """Ends a trial, with its last attributes. Telling again what is stored is fine: the first answer may have
        been lost."""
        trial = self.trials[number]
        told = [float(v) for v in values] if values is not None else None
        last, at = plain(attributes(changes)), datetime.now()

        def write() -> FrozenTrial | None:
            try:
                self._writer.end(trial._trial_id, state, told, last, at)
            except UpdateFinishedTrialError:
                stored = self._storage.get_trial(trial._trial_id)
                if (stored.state, stored.values) != (state, told):
                    raise
                return stored
            return None

        stored = self._write(write)
        if stored is None:
            stored = copy.copy(self.trials[number])
            stored.state, stored.datetime_complete = state, at
            stored.values = told
            stored.user_attrs = {**stored.user_attrs, **last}
        self.trials[number] = stored

    def running(self) -> list[FrozenTrial]:
        """Trials that are not finished, by number."""
        return [t for t in self.trials if t.state == TrialState.RUNNING]

    def searched(self) -> int:
        """How many trials count against `search.trials`: all but retries."""
        while self._counted < len(self.trials):  # trials are added at the end, and none becomes a retry later
            self._searched += "retry_of" not in self.trials[self._counted].user_attrs
            self._counted += 1
        return self._searched

    def best(self) -> FrozenTrial | None:
        """The best finished trial; with several objectives, the best by the first one."""
        done = [t for t in self.trials if t.state == TrialState.COMPLETE and t.values is not None]
        sign = -1 if self.directions[0] == StudyDirection.MAXIMIZE else 1
        return min(done, key=lambda t: (sign * t.values[0], t.number), default=None)

    # -- the database ------------------------------------------------------------------------------------

    def _write(self, what: Callable[[], T]) -> T:
        """The only door to the database for writing. Waits for a database that is away."""
        return self._retried(what)

    def _retried(self, what: Callable[[], T]) -> T:
        until, warned = time.monotonic() + RETRY_TIMEOUT_S, False
        while True:
            self._file.check()
            try:
                return what()
            except StorageInternalError as error:
                path = sqlite_path(self.url)
                if is_full(path, error):
                    raise LedgerUnavailableError(f"no space left on the disk of {path}") from error
                if time.monotonic() > until:
                    raise LedgerAwayError(f"the ledger can't be written: {reason(path, error)}") from error
                if not warned:
                    log.warning("the ledger is away, trying again for %g s: %s", RETRY_TIMEOUT_S, first_line(error))
                warned = True
                time.sleep(1.0)
                # another thread's snapshot would be older than what the driver's has written meanwhile
                if self._lease.taken_by_this_thread:
                    before = self.overtaken
                    self.still_ours()
                    if self.overtaken != before:  # what is to be written follows from what is no longer so
                        raise taken_over() from error


def _ways(directions: Sequence[str]) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in directions]
