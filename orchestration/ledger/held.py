"""A ledger that one driver at a time may write: its lease, and the term that each driver begins with it."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from ..spec.errors import LeaseTakenError
from ..spec.locations import sqlite_path
from .creating import TERM
from .database import LedgerAwayError, Opened, first_line
from .lease import SweepLease
from .records import SweepRecord
from .sql import StudyWriter, gone_back
from .stored import LedgerFile, lacks, with_folds

T = TypeVar("T")
TAKE_AGAIN_S = 5.0  # between attempts to take a lost lease again, each of which may wait for a connection


class HeldLedger(ABC):
    """What is stored of a sweep, and the right to write it."""

    def __init__(self, url: str, sweep: str, opened: Opened, study_id: int) -> None:
        self.url, self.sweep = url, sweep
        self._opened, self._storage, self._study_id = opened, opened.storage, study_id
        self._lease = SweepLease(url, opened.storage.engine, sweep)
        self._file = LedgerFile(sqlite_path(url))
        self.term: int | None = None  # ours, once we have had the lease; before, the one that was read
        self.overtaken = 0  # how often another driver was found to have been here since we had the lease last
        self._leads = False
        self._looked_s = -TAKE_AGAIN_S
        self.refresh()

    @abstractmethod
    def _write(self, what: Callable[[], T]) -> T:
        """The only door to the database for writing."""

    def close(self) -> None:
        """Gives the lease back and closes connections."""
        self._lease.release()
        self._opened.close()

    def refresh(self) -> None:
        """Reads everything anew."""
        self._attributes: dict[str, Any] = dict(self._storage.get_study_user_attrs(self._study_id))
        self._record: SweepRecord | None = None
        self.directions: list[StudyDirection] = list(self._storage.get_study_directions(self._study_id))
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self.trials: list[FrozenTrial] = with_folds(self._storage.engine, trials)
        if not self._leads:
            self.term = self._attributes.get(TERM)
        self._writer = StudyWriter(self._storage, self._study_id, self.trials, self.term)
        self._searched = self._counted = 0

    # -- lease -------------------------------------------------------------------------------------------

    def take_lease(self) -> None:
        """Becomes the sweep's only driver, in a new term. Raises LeaseTakenError when there is one, LedgerAwayError
        when the database is away."""
        try:
            self._lease.take()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise LedgerAwayError(f"the ledger can't be reached: {first_line(error)}") from error
        try:
            self._write(self._begin_term)
        except BaseException:
            self._lease.release()
            raise

    def _begin_term(self) -> None:
        """Reads what there is, and raises the term from that."""
        ours = (self.term, self.trials) if self._leads else None
        self.refresh()
        stored, known = self._attributes.get(TERM), self._attributes.get("id")
        if ours is not None:
            if (stored or 0) < (ours[0] or 0) or lacks(self.trials, ours[1]):
                raise gone_back()
            self.overtaken += stored != ours[0]
        made = str(uuid.uuid4()) if known is None else None
        self.term = self._writer.raise_term(stored, made)
        self._leads = True
        self._attributes |= {"id": made or known, TERM: self.term}
        self._record = None

    def refuse_if_driven(self) -> None:
        """Raises LeaseTakenError when there is a driver, before anything costly is started for another."""
        self._lease.refuse_if_taken()

    def has_driver(self) -> bool:
        """Whether some process holds the lease."""
        return self._lease.taken()

    def still_ours(self) -> bool:
        """Whether we hold the lease; takes it again and reads anew when a lost connection cost it. False while the
        database is away. Raises LeaseTakenError when another driver has taken over."""
        if self._lease.held():
            return True
        try:
            self.take_lease()
        except LeaseTakenError:
            if self._leads and self._stored_term() == self.term:
                return False  # held by a session of ours that the server has not ended yet, or about to be taken
            raise
        except StorageInternalError:
            return False
        return True

    def watch(self) -> None:
        """To be called often: notices that the lease or the ledger's file is gone, without asking the database. Takes a
        lost lease again and reads anew. Raises LeaseTakenError when another driver has taken over, LedgerLostError when
        the file was deleted or replaced."""
        self._file.check()
        if self._leads and self._lease.lost() and time.monotonic() - self._looked_s > TAKE_AGAIN_S:
            self.still_ours()
            self._looked_s = time.monotonic()

    def _stored_term(self) -> int | None:
        try:
            stored: int | None = self._storage.get_study_user_attrs(self._study_id).get(TERM)
        except StorageInternalError:
            return self.term  # nobody can say
        return stored
