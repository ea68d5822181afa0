"""The ledger: one record of a sweep that everything which decides reads, and which is written first.

An Optuna study in SQL, SQLite or PostgreSQL by one code path. It holds each trial's parameters, intermediate
values and state, and as attributes its Config fields, attempt, checkpoint, MLflow run, failures and
compute-seconds; and of the sweep its spec, its data's fingerprint and its state. One driver a sweep holds the
lease and is the only writer; readers need none.

Every write goes through `Ledger._write`: it is retried after a lost connection, and tests crash there. What a driver
reads waits likewise.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full
from ..search.failures import Failure
from ..search.sampling import Space, ask, quiet
from ..spec.errors import LedgerUnavailableError
from ..spec.locations import check_url, sqlite_path
from .lease import FileLease, Lease, LeaseTakenError, PostgresLease
from .sql import Records, as_stored, plain

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_S = 120.0  # how long a driver waits for a database that is away
# libpq waits for ever for a server that takes connections and says nothing, and a quarter of an hour for one whose
# host is gone
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class UnknownSweepError(InputError):
    """No sweep of that name here."""


def _open_storage(url: str, *, create: bool) -> RDBStorage:
    path = sqlite_path(check_url(url))
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": PATIENCE}
    if path is not None:
        if not path.exists() and not create:
            raise UnknownSweepError(f"no ledger at {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": 60}}
    try:
        with _alone(path), quiet():
            if path is not None:
                with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; synchronous is FULL by default
            try:
                return RDBStorage(url, engine_kwargs=options)
            except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
                time.sleep(1.0)  # another process makes the same tables
                return RDBStorage(url, engine_kwargs=options)
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.DatabaseError, StorageInternalError) as error:
        why = f"no space left on the disk of {path}" if _is_full(path, error) else _first_line(error)
        raise LedgerUnavailableError(f"the ledger can't be opened: {why}") from error


@contextlib.contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Who opens a SQLite file makes its tables, and Optuna does not expect that somebody else does so just then."""
    if path is None:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)  # not the file: closing it again would drop SQLite's own locks
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_full(path: Path | None, error: Exception) -> bool:
    """Whether the disk of a SQLite file is full, which SQLite calls an I/O error when its index can't grow."""
    return path is not None and (is_disk_full(error) or shutil.disk_usage(path.parent).free < 2**16)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def sweeps_in(url: str) -> list[str]:
    """Names of the sweeps in a ledger."""
    storage = _open_storage(url, create=False)
    return sorted(study.study_name for study in storage.get_all_studies())


class Ledger:
    """The record of one sweep. `trials` is what is stored; it follows every write."""

    def __init__(self, url: str, sweep: str, storage: RDBStorage, study_id: int) -> None:
        self.url, self.sweep = url, sweep
        self._storage, self._study_id = storage, study_id
        self._lease: Lease | None = None
        self._holder = 0  # the thread that took it, the only one to take it again
        self.directions: list[StudyDirection] = list(storage.get_study_directions(study_id))
        self.refresh()

    @classmethod
    def create(cls, url: str, sweep: str, directions: Sequence[str], spec: Mapping[str, Any]) -> Ledger:
        """The record of a sweep, made if it is new. A study without a spec counts as not there."""
        storage = _open_storage(url, create=True)
        way = [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in directions]
        try:
            with quiet():
                study_id = storage.create_new_study(way, sweep)
        except DuplicatedStudyError:
            study_id = storage.get_study_id_from_name(sweep)
            if "spec" not in storage.get_study_user_attrs(study_id):  # its maker died at birth
                storage.delete_study(study_id)
                return cls.create(url, sweep, directions, spec)
            return cls(url, sweep, storage, study_id)
        ledger = cls(url, sweep, storage, study_id)
        ledger.set_attribute("spec", dict(spec))
        return ledger

    @classmethod
    def open(cls, url: str, sweep: str) -> Ledger:
        """The record of a sweep that exists. Raises UnknownSweepError with the names there are."""
        storage = _open_storage(url, create=False)
        try:
            found = cls(url, sweep, storage, storage.get_study_id_from_name(sweep))
            if "spec" not in found.attributes:
                raise KeyError(sweep)
            return found
        except KeyError:
            names = ", ".join(sorted(s.study_name for s in storage.get_all_studies())) or "none"
            raise UnknownSweepError(f"no sweep {sweep!r} in {url}; there are: {names}") from None

    @classmethod
    def find(cls, url: str, sweep: str) -> Ledger | None:
        """The record of a sweep, None where there is none."""
        try:
            return cls.open(url, sweep)
        except UnknownSweepError:
            return None

    def close(self) -> None:
        """Gives the lease back and closes connections."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        self._storage.remove_session()
        self._storage.engine.dispose()

    def refresh(self) -> None:
        """Reads everything anew."""
        self.attributes: dict[str, Any] = dict(self._storage.get_study_user_attrs(self._study_id))
        self.trials: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._records = Records(self._storage, self._study_id, self.trials)
        self._searched = self._counted = 0

    # -- lease -------------------------------------------------------------------------------------------

    def take_lease(self) -> None:
        """Becomes the sweep's only driver. Raises LeaseTakenError when there is one."""
        try:
            self._lease, self._holder = self._acquire(), threading.get_ident()
        except LeaseTakenError:
            raise self._taken() from None
        self.refresh()

    def refuse_if_driven(self) -> None:
        """Raises LeaseTakenError when there is a driver, before anything costly is started for another."""
        if self.has_driver():
            raise self._taken()

    def _taken(self) -> LeaseTakenError:
        does = "watch it with `sweep status`, end it with `sweep stop`"
        return LeaseTakenError(f"sweep {self.sweep!r} has a driver already: {does}")

    def _acquire(self) -> Lease:
        file = self._lease_file()
        return FileLease(file) if file else PostgresLease(self._storage.engine, self.sweep)

    def _lease_file(self) -> Path | None:
        path = sqlite_path(self.url)
        return path.with_name(f"{path.name}.{self.sweep}.lease") if path else None

    def has_driver(self) -> bool:
        """Whether some process holds the lease."""
        if self._lease is not None:
            return self._lease.held()
        file = self._lease_file()
        return FileLease.taken(file) if file else PostgresLease.taken(self._storage.engine, self.sweep)

    def still_ours(self) -> bool:
        """Whether we hold the lease; takes it again and reads anew when a lost connection cost it. False while the
        database is away. Raises LeaseTakenError when another driver has taken over."""
        if self._lease is not None and self._lease.held():
            return True
        try:
            self.take_lease()
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError):
            return False
        return True

    # -- writes ------------------------------------------------------------------------------------------

    def _write(self, what: Callable[[], T]) -> T:
        """The only door to the database for writing. Waits for a database that is away."""
        return self._patiently(what)

    def _patiently(self, what: Callable[[], T]) -> T:
        until, told = time.monotonic() + RETRY_S, False
        while True:
            try:
                return what()
            except StorageInternalError as error:
                path = sqlite_path(self.url)
                if _is_full(path, error):
                    raise InputError(f"no space left on the disk of {path}") from error
                if time.monotonic() > until:
                    raise
                if not told:
                    log.warning("the ledger is away, trying again for %g s: %s", RETRY_S, _first_line(error))
                told = True
                time.sleep(1.0)
                # another thread's snapshot would be older than what the driver's has written meanwhile
                if self._lease is not None and threading.get_ident() == self._holder:
                    self.still_ours()

    def _stored(self, trial_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._storage.get_trial(trial_id))

    def set_attribute(self, key: str, value: Any) -> None:
        """An attribute of the sweep."""
        self._write(lambda: self._records.set_attribute(key, value))
        self.attributes[key] = value

    def ask(
        self, sampler: Any, space: Space, attributes: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> FrozenTrial:
        """A new RUNNING trial, in one write. `attributes` makes its attributes from the Config fields it got."""
        template, fields = ask(self.directions, self.trials, sampler, space)
        template.user_attrs = dict(attributes(fields))
        template.datetime_start = datetime.now()
        return self._create(template)

    def _create(self, template: FrozenTrial) -> FrozenTrial:
        number = len(self.trials)
        made_id = self._write(lambda: self._records.create(template, number))
        if len(self.trials) > number:  # read anew, after a lost connection
            return self.trials[number]
        if made_id is not None:
            self.trials.append(as_stored(template, number, made_id))
        else:  # made before, and the answer was lost
            found_id = self._patiently(
                lambda: self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            )
            found = self._stored(found_id)
            if len(self.trials) == number:
                self.trials.append(found)
        return self.trials[number]

    def succeed(self, failed: FrozenTrial) -> FrozenTrial:
        """A RUNNING successor of a failed trial: same parameters, named as its retry."""
        attributes = {k: v for k, v in failed.user_attrs.items() if k in ("config", "data")}
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            params=failed.params,
            distributions=failed.distributions,
            user_attrs={**attributes, "attempt": 1, "retry_of": failed.number},
            system_attrs={k: v for k, v in failed.system_attrs.items() if not k.startswith("constraints")},
        )
        template.datetime_start = datetime.now()
        return self._create(template)

    def note(self, number: int, key: str, value: Any) -> None:
        """An attribute of a trial."""
        trial, value = self.trials[number], plain(value)
        if trial.user_attrs.get(key) != value:
            self._write(lambda: self._records.note(trial._trial_id, key, value))
            self.trials[number].user_attrs[key] = value

    def report(self, number: int, epoch: int, values: Sequence[float]) -> None:
        """A finished epoch's objective: an intermediate value, or of several objectives an attribute."""
        if len(self.directions) > 1:
            self.note(number, f"values:{epoch:04d}", list(values))
            return
        trial = self.trials[number]
        self._write(lambda: self._records.report(trial._trial_id, epoch, float(values[0])))
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
            self._write(lambda: self._records.mark(trial._trial_id, key, 1.0))
            self.trials[number].system_attrs[key] = 1.0

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Ends a trial, with its last attributes. Telling again what is stored is fine: the first answer may have
        been lost."""
        trial = self.trials[number]
        told = [float(v) for v in values] if values is not None else None
        known, at = plain(dict(notes)), datetime.now()

        def write() -> FrozenTrial | None:
            try:
                self._records.end(trial._trial_id, state, told, known, at)
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
            stored.user_attrs = {**stored.user_attrs, **known}
        self.trials[number] = stored

    def run_id(self, number: int) -> str | None:
        """The MLflow run of a trial. An attribute of the sweep: a finished trial takes none, and MLflow may have been
        away until then."""
        found = self.attributes.get(f"run:{number}")
        return str(found) if found is not None else None

    # -- reading -----------------------------------------------------------------------------------------

    def running(self) -> list[FrozenTrial]:
        """Trials that are not finished, by number."""
        return [t for t in self.trials if t.state == TrialState.RUNNING]

    def searched(self) -> int:
        """How many trials count against `search.trials`: all but successors."""
        while self._counted < len(self.trials):  # trials are added at the end, and none becomes a successor later
            self._searched += "retry_of" not in self.trials[self._counted].user_attrs
            self._counted += 1
        return self._searched

    def best(self) -> FrozenTrial | None:
        """The best finished trial; with several objectives, the first of the Pareto front by the first one."""
        done = [t for t in self.trials if t.state == TrialState.COMPLETE and t.values is not None]
        sign = -1 if self.directions[0] == StudyDirection.MAXIMIZE else 1
        return min(done, key=lambda t: (sign * t.values[0], t.number), default=None)


def failures_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """A trial's failed attempts, oldest first."""
    return list(trial.user_attrs.get("failures", ()))


def failure_entry(failure: Failure, attempt: int, action: str) -> dict[str, Any]:
    """A failed attempt, for the ledger."""
    return {**failure.as_json(), "mark": failure.mark, "attempt": attempt, "action": action}
