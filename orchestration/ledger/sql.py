"""The ledger's writes as plain SQL on Optuna's tables: one transaction each, the rows that Optuna itself would write.

The first statement of each compares the writer's term with the stored one, and locks that row to the transaction's
end (a SELECT would not: SQLite runs it before it has the lock for writing). Who takes the sweep over raises the term,
in one statement too, so nothing that an earlier driver still sends can follow.

Optuna's own storage asks two questions a parameter, reads all trials in order to count them and reads back what it
has written: 80 ms for one of a hundred trials, and more with every trial. Here a trial costs five statements. The
tables stay Optuna's, and its storage reads them; a test compares both ways row by row.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite

from ...datasets.problems import InputError
from ..spec.errors import LeaseTakenError, LedgerLostError
from .creating import TERM, direct


class StudyWriter:
    """Writes one study. Raises StorageInternalError when the database is away, UpdateFinishedTrialError for a trial
    that is over, LeaseTakenError when a later term has begun, LedgerLostError when the database has gone back to an
    earlier one."""

    def __init__(
        self, storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial], term: int | None = None
    ) -> None:
        """`trials` are those that are stored: what kind each parameter is. `term` is ours; None for a ledger of before
        there were any."""
        self._storage, self._study_id, self.term = storage, study_id, term
        self._kinds: dict[str, BaseDistribution] = {}
        for trial in trials:
            for name, kind in trial.distributions.items():
                self._kinds.setdefault(name, kind)
        insert = postgresql.insert if storage.engine.name == "postgresql" else sqlite.insert

        def upsert(table: Any, *keys: str) -> Any:
            made = insert(table)
            others = {c.name: c for c in made.excluded if c.name not in keys and not c.primary_key}
            return made.on_conflict_do_update(index_elements=keys, set_=others)

        trial, study = models.TrialModel.__table__, models.StudyModel.__table__
        notes: Any = models.StudyUserAttributeModel.__table__
        mine = trial.c.trial_id == sqlalchemy.bindparam("id")
        self._locked = sqlalchemy.select(study.c.study_id).where(study.c.study_id == study_id).with_for_update()
        self._count = sqlalchemy.select(sqlalchemy.func.count()).where(trial.c.study_id == study_id)
        self._state = sqlalchemy.select(trial.c.state).where(mine)
        stored = (notes.c.study_id == study_id, notes.c.key == TERM)
        held = notes.c.value_json == sqlalchemy.bindparam("mine")
        self._fence = sqlalchemy.update(notes).where(*stored, held).values({notes.c.value_json: notes.c.value_json})
        # with the state of a trial, which saves a question
        self._fence_state = self._fence.returning(self._state.scalar_subquery())
        raised: dict[Any, Any] = {notes.c.value_json: sqlalchemy.bindparam("next")}
        self._raise = sqlalchemy.update(notes).where(*stored, held).values(raised)
        self._stored_term = sqlalchemy.select(notes.c.value_json).where(*stored)
        self._trial = sqlalchemy.insert(trial)
        self._param = sqlalchemy.insert(models.TrialParamModel.__table__)
        ended: dict[Any, Any] = {
            trial.c.state: sqlalchemy.bindparam("as"),
            trial.c.datetime_complete: sqlalchemy.bindparam("at"),
        }
        self._end = sqlalchemy.update(trial).where(mine).values(ended)
        self._user = upsert(models.TrialUserAttributeModel.__table__, "trial_id", "key")
        self._system = upsert(models.TrialSystemAttributeModel.__table__, "trial_id", "key")
        self._reported = upsert(models.TrialIntermediateValueModel.__table__, "trial_id", "step")
        self._value = upsert(models.TrialValueModel.__table__, "trial_id", "objective")
        self._attribute = upsert(notes, "study_id", "key")
        self._first = sqlalchemy.insert(notes)
        self._forgotten = sqlalchemy.delete(notes).where(notes.c.study_id == study_id)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlalchemy.Connection]:
        try:
            with self._storage.engine.begin() as connection:
                yield connection
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageInternalError(str(error)) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlalchemy.Connection]:
        """A transaction of our term."""
        with self._connected() as connection:
            if self.term is not None and not connection.execute(self._fence, {"mine": json.dumps(self.term)}).rowcount:
                raise self._overtaken(connection)
            yield connection

    @contextlib.contextmanager
    def _running(self, trial_id: int) -> Iterator[sqlalchemy.Connection]:
        """A transaction of our term on a trial that is not over."""
        with self._connected() as connection:
            if self.term is None:
                found = connection.execute(self._state, {"id": trial_id}).first()
            else:
                found = connection.execute(self._fence_state, {"mine": json.dumps(self.term), "id": trial_id}).first()
                if found is None:
                    raise self._overtaken(connection)
            if found is None or found[0] is None:
                raise gone_back()
            self._storage.check_trial_is_updatable(trial_id, found[0])
            yield connection

    def _overtaken(self, connection: sqlalchemy.Connection) -> InputError:
        """Why the stored term is not ours."""
        stored = connection.execute(self._stored_term).scalar()
        if stored is None or json.loads(stored) < self.term:
            return gone_back()
        return taken_over()

    def raise_term(self, before: int | None, sweep_id: str | None) -> int:
        """Begins the term after the one that was stored, None where there was none; the new one. `sweep_id` is stored
        where it is given. Raises LeaseTakenError when another driver was faster."""
        after = (before or 0) + 1
        with self._connected() as connection:
            if before is not None:
                words = {"mine": json.dumps(before), "next": json.dumps(after)}
                if not connection.execute(self._raise, words).rowcount:
                    raise taken_over()
            given: dict[str, Any] = {"id": sweep_id} if sweep_id is not None else {}
            rows = [self._row(key, value) for key, value in given.items()]
            if before is None:  # of a ledger of before; whoever else does this now makes one of the two fail
                connection.execute(self._first, self._row(TERM, after))
            if rows:
                connection.execute(self._attribute, rows)
        self.term = after
        return after

    def create(self, template: FrozenTrial, number: int) -> int | None:
        """Writes a RUNNING trial; its id. None when that number is taken: a trial whose writing was not answered.

        Raises ValueError when a parameter is of another kind than it was in earlier trials.
        """
        for name, kind in template.distributions.items():
            check_distribution_compatibility(self._kinds.setdefault(name, kind), kind)
        assert template.state == TrialState.RUNNING
        assert template.datetime_start is not None
        row = {"study_id": self._study_id, "number": number, "state": template.state}
        with self._transaction() as connection:
            if self.term is None:
                connection.execute(self._locked)
            if connection.execute(self._count).scalar_one() != number:
                return None
            made = connection.execute(self._trial, {**row, "datetime_start": _utc(template.datetime_start)})
            assert made.inserted_primary_key is not None
            trial_id = int(made.inserted_primary_key[0])
            params = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": kind.to_internal_repr(template.params[name]),
                    "distribution_json": distribution_to_json(kind),
                }
                for name, kind in template.distributions.items()
            ]
            if params:
                connection.execute(self._param, params)
            self._set(connection, self._user, trial_id, template.user_attrs)
            self._set(connection, self._system, trial_id, template.system_attrs)
        return trial_id

    @staticmethod
    def _set(connection: sqlalchemy.Connection, how: Any, trial_id: int, values: Mapping[str, Any]) -> None:
        rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in values.items()]
        if rows:
            connection.execute(how, rows)

    def report(self, trial_id: int, step: int, value: float) -> None:
        """An intermediate value."""
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        row = {"trial_id": trial_id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
        with self._running(trial_id) as connection:
            connection.execute(self._reported, row)

    def note(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute of ours."""
        with self._running(trial_id) as connection:
            self._set(connection, self._user, trial_id, {key: value})

    def mark(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute that is Optuna's."""
        with self._running(trial_id) as connection:
            self._set(connection, self._system, trial_id, {key: value})

    def end(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None, notes: Mapping[str, Any], at: datetime
    ) -> None:
        """A trial's last attributes and its end."""
        with self._running(trial_id) as connection:
            self._set(connection, self._user, trial_id, notes)
            if values:
                connection.execute(self._value, [_value(trial_id, i, v) for i, v in enumerate(values)])
            connection.execute(self._end, {"id": trial_id, "as": state, "at": _utc(at)})

    def set_attribute(self, key: str, value: Any) -> None:
        """An attribute of the study."""
        with self._transaction() as connection:
            connection.execute(self._attribute, self._row(key, value))

    def begin_anew(
        self, directions: Sequence[StudyDirection], values: Mapping[str, Any], forget: Sequence[str]
    ) -> None:
        """Another sweep under the name of one that has no trial: its directions, attributes to set, and those to
        forget. Raises LeaseTakenError when there is a trial by now."""
        with self._transaction() as connection:
            if connection.execute(self._count).scalar_one():
                raise taken_over()
            key = models.StudyUserAttributeModel.__table__.c.key
            connection.execute(self._forgotten.where(key.in_(forget)))
            connection.execute(self._attribute, [self._row(key, value) for key, value in values.items()])
            direct(connection, self._study_id, directions)

    def _row(self, key: str, value: Any) -> dict[str, Any]:
        return {"study_id": self._study_id, "key": key, "value_json": json.dumps(value)}


def taken_over() -> LeaseTakenError:
    """That a later term has begun."""
    return LeaseTakenError("another driver has taken over the sweep: this one ends, and changes nothing any more")


def gone_back() -> LedgerLostError:
    """That the database is not the one that we have written to."""
    return LedgerLostError(
        "the ledger lacks what this driver has written: it was put back to an earlier state, as when a server gives "
        "way to one that was behind; `sweep resume` goes on from what it holds"
    )


def _value(trial_id: int, objective: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}


def _utc(local: datetime) -> datetime:
    """As Optuna's tables have it."""
    return local.astimezone(UTC).replace(tzinfo=None)


def as_stored(template: FrozenTrial, number: int, trial_id: int) -> FrozenTrial:
    """A new trial as it would be read back."""
    return FrozenTrial(
        number=number,
        state=template.state,
        value=None,
        datetime_start=template.datetime_start,
        datetime_complete=None,
        params={
            n: k.to_external_repr(k.to_internal_repr(template.params[n])) for n, k in template.distributions.items()
        },
        distributions=dict(template.distributions),
        user_attrs={key: plain(value) for key, value in template.user_attrs.items()},
        system_attrs={key: plain(value) for key, value in template.system_attrs.items()},
        intermediate_values={},
        trial_id=trial_id,
    )


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))
