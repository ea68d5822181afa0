"""What is read from a ledger against what its reader knows: is it the same file, has it lost rows, can it be read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

from ..spec.errors import LedgerLostError, LedgerUnavailableError
from ..spec.locations import sqlite_path
from .database import reason


class LedgerFile:
    """The file of a ledger, as it was when it was opened."""

    def __init__(self, path: Path | None) -> None:
        """`path` is None for a ledger on a server."""
        self._path = path
        self._opened = os.stat(path) if path is not None else None

    def check(self) -> None:
        """Raises LedgerLostError when another file, or none, is in its place: what is written would be lost."""
        if self._path is None or self._opened is None:
            return
        try:
            there = os.path.samestat(os.stat(self._path), self._opened)
        except FileNotFoundError:
            there = False
        if not there:
            raise LedgerLostError(
                f"the ledger {self._path} was deleted or replaced while its sweep ran, and what is written now would "
                "be lost: put it back, then `sweep resume` goes on"
            )


def lacks(stored: Sequence[FrozenTrial], known: Sequence[FrozenTrial]) -> bool:
    """Whether a ledger has lost something of the trials that a driver knows: a trial, an end, an epoch."""
    if len(stored) < len(known):
        return True
    return any(
        (old.state.is_finished() and old.state != new.state)
        or not new.intermediate_values.keys() >= old.intermediate_values.keys()
        for new, old in zip(stored, known, strict=False)
    )


@contextlib.contextmanager
def readable(url: str) -> Iterator[None]:
    """Says in one line that a ledger can't be read. Raises LedgerUnavailableError."""
    path = sqlite_path(url)
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise LedgerUnavailableError(f"the ledger can't be read: {reason(path, error)}") from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        if isinstance(error, LedgerUnavailableError):
            raise
        raise LedgerUnavailableError(f"the ledger {path or url} is damaged: {type(error).__name__}: {error}") from error


def with_folds(engine: sqlalchemy.Engine, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Trials whose times within an hour that clocks have twice say which one is meant: Optuna stores UTC and gives
    local times back."""
    doubled = [t for t in trials if any(_is_doubled(at) for at in (t.datetime_start, t.datetime_complete))]
    if doubled:
        table = models.TrialModel.__table__
        ids = [t._trial_id for t in doubled]
        columns = (table.c.trial_id, table.c.datetime_start, table.c.datetime_complete)
        with engine.connect() as connection:
            stored = connection.execute(sqlalchemy.select(*columns).where(table.c.trial_id.in_(ids))).all()
        times = {trial_id: (start, complete) for trial_id, start, complete in stored}
        for trial in doubled:
            trial.datetime_start, trial.datetime_complete = map(_local, times[trial._trial_id])
    return trials


def _is_doubled(local: datetime | None) -> bool:
    return local is not None and local.replace(fold=0).timestamp() != local.replace(fold=1).timestamp()


def _local(stored: datetime | None) -> datetime | None:
    return None if stored is None else datetime.fromtimestamp(stored.replace(tzinfo=UTC).timestamp())
