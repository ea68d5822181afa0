"""How sweeps stand, in plain values, from the ledger alone."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..search.budget import outlook
from .database import UnknownSweepError, sweeps_in
from .ledger import Ledger
from .records import TrialRecord


def status(ledger: Ledger) -> dict[str, Any]:
    """How a sweep stands, in plain values: what `sweep status --json` prints."""
    best = ledger.best()
    return {
        "name": ledger.sweep,
        "state": str(ledger.state),
        "objective": ledger.record.spec["objective"],
        "trials": [_trial(ledger, trial) for trial in ledger.trials],
        "best": best.number if best else None,
        "budget": outlook(ledger, time.time() if ledger.has_driver() else None),
    }


def _trial(ledger: Ledger, trial: FrozenTrial) -> dict[str, Any]:
    record, values = TrialRecord.of(trial), trial.values
    last = record.failure
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": values[0] if values and len(values) == 1 else (list(values) if values else None),
        "epoch": max(ledger.reported(trial.number), default=0),
        "params": dict(trial.params),
        "run_id": ledger.record.run_ids.get(trial.number),
        "cause": record.cause or (last.failure.message if last else None),
        "retry_of": record.retry_of,
    }


def list_sweeps(ledger_url: str) -> list[dict[str, Any]]:
    """Every sweep of a ledger, in short."""
    rows = []
    for name in sweeps_in(ledger_url):
        with contextlib.suppress(UnknownSweepError):
            ledger = Ledger.open(ledger_url, name)
            best = ledger.best()
            done = sum(t.state == TrialState.COMPLETE for t in ledger.trials)
            rows.append(
                {
                    "name": name,
                    "trainable": ledger.record.spec["trainable"],
                    "state": str(ledger.state),
                    "trials": len(ledger.trials),
                    "complete": done,
                    "best": best.number if best else None,
                    "value": best.values[0] if best and best.values else None,
                }
            )
            ledger.close()
    return rows
