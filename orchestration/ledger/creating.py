"""Makes the record of a sweep: study, directions and attributes in one transaction, so that there is all of it or
nothing, and of two that make it at once one finds the other's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.study import StudyDirection

from ..spec.errors import LedgerUnavailableError

SPEC, TERM = "spec", "term"  # attributes of a study: without the first it is no sweep
_STUDY: Any = models.StudyModel.__table__
_DIRECTION: Any = models.StudyDirectionModel.__table__
_ATTRIBUTE: Any = models.StudyUserAttributeModel.__table__
_TRIAL: Any = models.TrialModel.__table__


def make_study(
    engine: sqlalchemy.Engine, sweep: str, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]
) -> int:
    """The id of a sweep's study, made with its attributes where there is none.

    Raises LedgerUnavailableError where the name is that of somebody's own Optuna study, StorageInternalError when the
    database is away.
    """
    try:
        try:
            return _found_or_made(engine, sweep, directions, attributes)
        except sqlalchemy.exc.IntegrityError:  # somebody else has made it since we looked
            return _found_or_made(engine, sweep, directions, attributes)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageInternalError(str(error)) from error


def _found_or_made(
    engine: sqlalchemy.Engine, sweep: str, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]
) -> int:
    mine = _STUDY.c.study_name == sweep
    with engine.begin() as connection:
        # an UPDATE: it locks the row, and SQLite's file, before anything is read
        locked = sqlalchemy.update(_STUDY).where(mine).values(study_name=_STUDY.c.study_name)
        if connection.execute(locked).rowcount:
            study_id = int(connection.execute(sqlalchemy.select(_STUDY.c.study_id).where(mine)).scalar_one())
            keys = sqlalchemy.select(_ATTRIBUTE.c.key).where(_ATTRIBUTE.c.study_id == study_id)
            known = set(connection.execute(keys).scalars())
            if SPEC in known:
                return study_id
            trials = sqlalchemy.select(_TRIAL.c.trial_id).where(_TRIAL.c.study_id == study_id).limit(1)
            if known or connection.execute(trials).first() is not None:
                raise LedgerUnavailableError(
                    f"the ledger holds an Optuna study {sweep!r} that is no sweep: name another"
                )
        else:  # or an earlier version was killed while it made it
            made = connection.execute(sqlalchemy.insert(_STUDY), {"study_name": sweep})
            assert made.inserted_primary_key is not None
            study_id = int(made.inserted_primary_key[0])
        direct(connection, study_id, directions)
        rows = [{"study_id": study_id, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()]
        connection.execute(sqlalchemy.insert(_ATTRIBUTE), rows)
    return study_id


def direct(connection: sqlalchemy.Connection, study_id: int, directions: Sequence[StudyDirection]) -> None:
    """Writes the directions of a study's objectives instead of those that it has."""
    connection.execute(sqlalchemy.delete(_DIRECTION).where(_DIRECTION.c.study_id == study_id))
    rows = [{"study_id": study_id, "objective": i, "direction": d} for i, d in enumerate(directions)]
    connection.execute(sqlalchemy.insert(_DIRECTION), rows)
