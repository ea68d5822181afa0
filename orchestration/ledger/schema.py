"""Whose tables a database holds: a ledger's as this version makes them, another program's, or none yet."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import alembic.script
import optuna
from optuna.storages._rdb import alembic as _revisions

from ..spec.errors import LedgerUnavailableError

_OURS = {"studies", "trials", "version_info"}  # Optuna's: all of them are made at once
_MLFLOW = {"experiments", "runs"}
_NAMES_SHOWN = 4


def is_ledger(tables: Collection[str], revision: str | None, place: str, *, shared: bool) -> bool:
    """Whether a database holds a ledger; False for one that may become one. `revision` is what its table
    `alembic_version` says; `shared` databases may hold tables of other programs beside.

    Raises LedgerUnavailableError for another program's database, and for a ledger that this version can't read.
    """
    found = set(tables)
    if found >= _MLFLOW:
        raise LedgerUnavailableError(
            f"{place} is MLflow's database: ledger and tracking must be two, got one; name another under `ledger`"
        )
    if not found >= _OURS:
        others = found - {"alembic_version"} if shared and revision is None else found
        clash = others & _OURS if shared and revision is None else others
        if clash:
            some = ", ".join(sorted(others)[:_NAMES_SHOWN])
            raise LedgerUnavailableError(f"{place} must be a ledger or empty, got another program's tables: {some}")
        return False
    if revision is not None and revision != _known()[0]:
        made = "an older" if revision in _known() else "a newer"
        way = (
            "`optuna storage upgrade` brings it up to date" if revision in _known() else "use the version that made it"
        )
        raise LedgerUnavailableError(
            f"{place} was made by {made} version of Optuna ({revision}; this is {optuna.__version__}): {way}"
        )
    return True


@functools.cache
def _known() -> list[str]:
    """Revisions of Optuna's tables, newest first."""
    folder = Path(next(iter(_revisions.__path__)))
    return [found.revision for found in alembic.script.ScriptDirectory(str(folder)).walk_revisions()]
