"""The ledger's writes as plain SQL on Optuna's tables: one transaction each, the rows that Optuna itself would write.

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
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite


class StudyWriter:
    """Writes one study. Raises StorageInternalError when the database is away, UpdateFinishedTrialError for a trial
    that is over."""

    def __init__(self, storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """`trials` are those that are stored: what kind each parameter is."""
        self._storage, self._study_id = storage, study_id
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
        mine = trial.c.trial_id == sqlalchemy.bindparam("id")
        self._locked = sqlalchemy.select(study.c.study_id).where(study.c.study_id == study_id).with_for_update()
        self._count = sqlalchemy.select(sqlalchemy.func.count()).where(trial.c.study_id == study_id)
        self._state = sqlalchemy.select(trial.c.state).where(mine)
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
        self._attribute = upsert(models.StudyUserAttributeModel.__table__, "study_id", "key")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlalchemy.Connection]:
        try:
            with self._storage.engine.begin() as connection:
                yield connection
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageInternalError(str(error)) from error

    @contextlib.contextmanager
    def _running(self, trial_id: int) -> Iterator[sqlalchemy.Connection]:
        """A transaction on a trial that is not over."""
        with self._transaction() as connection:
            state = connection.execute(self._state, {"id": trial_id}).scalar_one()
            self._storage.check_trial_is_updatable(trial_id, state)
            yield connection

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
            row = {"study_id": self._study_id, "key": key, "value_json": json.dumps(value)}
            connection.execute(self._attribute, row)


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
