"""How sweeps stand, in plain values, from the ledger alone."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from .accounts import ACCOUNTS, account
from .database import open_for_reading
from .forecast import forecast, planned_trials
from .ledger import Ledger
from .records import TrialRecord
from .stored import readable
from .usage import HEARTBEAT_S, DriverRun, attempts_of, ended, settled


def status(ledger: Ledger) -> dict[str, Any]:
    """How a sweep stands, in plain values: what `sweep status --json` prints. Raises LedgerUnavailableError where it
    holds what no sweep writes."""
    with readable(ledger.url):
        return _status(ledger)


def _status(ledger: Ledger) -> dict[str, Any]:
    best = ledger.best()
    return {
        "name": ledger.sweep,
        "state": str(ledger.state),
        "objective": ledger.record.spec["objective"],
        "trials": [_trial(ledger, trial) for trial in ledger.trials],
        "best": best.number if best else None,
        "budget": budget_status(ledger, time.time() if ledger.has_driver() else None),
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


def budget_status(ledger: Ledger, now_s: float | None) -> dict[str, Any]:
    """A sweep's time in plain values: hours of every account (`useful_hours` ...; device-hours of `unit`, gpu or cpu),
    what is used of each limit, and a forecast. `now_s`: seconds since 1970 while a driver runs, else None."""
    stored = ledger.record.drivers
    if stored and now_s is not None and not _runs(stored[-1], ledger.record.term, now_s):
        now_s = None  # a driver that lives, but starts no trials: the last one that did has ended
    drivers = settled(stored, ledger.trials, now_s)
    usage = [(trial, ended(attempts_of(trial), drivers)) for trial in ledger.trials]
    known = account(drivers, usage)
    spec = ledger.record.spec
    used = {"gpu_hours": known.gpu_s / 3600, "cpu_hours": known.cpu_s / 3600, "wall_hours": known.wall_s / 3600}
    limits = {name: float(limit) for name, limit in (spec.get("budget") or {}).items() if limit is not None}
    to_come = max(0, planned_trials(spec) - ledger.searched())
    return {
        "unit": known.kind,
        **{f"{name}_hours": getattr(known, f"{name}_s") / 3600 for name in ACCOUNTS},
        **used,
        "limits": {name: {"limit": limit, "used": used[name]} for name, limit in limits.items()},
        "spent": ledger.record.spent,
        "forecast": forecast(usage, drivers, known, to_come, now_s),
    }


def _runs(last: DriverRun, term: int, now_s: float) -> bool:
    """Whether the driver that lives is the last one that began; older entries say no term."""
    if last.ended or (last.term is not None and last.term != term):
        return False
    return now_s - last.seen_s <= 3 * HEARTBEAT_S


def list_sweeps(ledger_url: str) -> list[dict[str, Any]]:
    """Every sweep of a ledger, in short."""
    rows = []
    with contextlib.closing(open_for_reading(ledger_url)) as opened, readable(ledger_url):
        for name in opened.sweeps():
            study = opened.study(name)
            if study is None:
                continue  # deleted meanwhile
            ledger = Ledger(ledger_url, name, opened, study)
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
    return rows
